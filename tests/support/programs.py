"""Programs of collectives, as data: what each rank holds follows from a seed and its rank.

Ranks import this module, so that it imports no more than they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import allranks


@dataclass(frozen=True)
class Leaf:
    """What one rank holds follows from this and its rank."""

    kind: str
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    seed: int = 0
    layout: str = "plain"
    ragged: bool = False

    def of(self, rank: int) -> Any:
        drawn = np.random.RandomState(self.seed * 8 + rank)
        if self.kind in ("int", "float"):
            value = int(drawn.randint(-3, 4))
            return value if self.kind == "int" else value / 2
        grown = [size + rank % 3 * self.ragged for size in self.shape]
        values = drawn.randint(0, 3, size=grown)
        if self.kind == "array":
            return values.astype(self.dtype)
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, self.dtype))
        if self.layout == "transposed" and tensor.dim() > 1:
            return tensor.transpose(0, 1).contiguous().transpose(0, 1)
        if self.layout == "strided":
            return torch.stack([tensor, torch.full_like(tensor, 7)], dim=-1)[..., 0]
        return tensor


@dataclass(frozen=True)
class Step:
    """One call, made by the members of a group."""

    call: str
    data: Any
    members: tuple[int, ...]
    op: str = "sum"
    src: int = 0

    @property
    def sender(self) -> int:
        return self.members[self.src % len(self.members)]

    def given(self, rank: int) -> Any:
        return built(self.data, rank)


def built(data: Any, rank: int) -> Any:
    if isinstance(data, Leaf):
        return data.of(rank)
    if isinstance(data, dict):
        return {key: built(child, rank) for key, child in data.items()}
    return type(data)(built(child, rank) for child in data)


def perform(step: Step, group: Any) -> Any:
    """A member's call, and what it returned."""
    mine = step.given(allranks.get_rank())
    count = len(step.members)
    calls = {
        "all_reduce": lambda: allranks.all_reduce(mine, group, op=step.op),
        "all_gather": lambda: allranks.all_gather(mine, group),
        "broadcast": lambda: allranks.broadcast(mine, step.sender, group) or mine,
        "reduce_scatter": lambda: allranks.reduce_scatter(mine[:count], group, op=step.op),
        "gather_objects": lambda: allranks.gather_objects(mine, group),
        "broadcast_object": lambda: allranks.broadcast_object(mine, step.sender, group),
        "scatter_objects": lambda: allranks.scatter_objects([mine] * count, step.sender, group),
    }
    return calls[step.call]()


def run(program: list[Step], size: int) -> list[Any]:
    """On a rank: all steps of which it is a member."""
    results = []
    with allranks.session(cpu=True):
        for step in program:
            everyone = len(step.members) == size
            group = None if everyone else dist.new_group(step.members)
            member = allranks.get_rank() in step.members
            results.append(perform(step, group) if member else None)
        allranks.synchronize()  # Of torch's last group some may still be connecting.
    return results
