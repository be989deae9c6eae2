"""What each rank must get from a step: computed here, from what all of them give."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chaos_data import arrays_in, given, swapped_part, taken, weight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos_steps import Step


def wanted(step: Step, rank: int, members: Sequence[int]) -> Any:
    """What the call must give to a rank; of data that are changed in place, what they must hold.

    Args:
        step: the call.
        rank: the rank.
        members: those that make the call, in the order of their group.
    """
    return WANTED[step.call](Asked(step, rank, members))


@dataclass(frozen=True)
class Asked:
    """A call whose result is asked for.

    Attributes:
        step: the call.
        rank: whose result.
        members: the ranks that make it, in their order.
    """

    step: Step
    rank: int
    members: Sequence[int]

    @property
    def place(self) -> int:
        """The rank's place among the members."""
        return self.members.index(self.rank)

    @property
    def root(self) -> int:
        """The rank that sends, or receives alone."""
        return self.members[self.step.src % len(self.members)]

    @property
    def mine(self) -> Any:
        """What the rank gives."""
        return self.given_by(self.rank)

    @property
    def sent(self) -> Any:
        """What the root gives."""
        return self.given_by(self.root)

    @property
    def every(self) -> list[Any]:
        """What all give."""
        return [self.given_by(one) for one in self.members]

    def given_by(self, rank: int) -> Any:
        """What one of them gives."""
        return given(self.step, rank, len(self.members))

    def for_root(self, result: Callable[[], Any]) -> Any:
        """What the root alone gets."""
        return result() if self.rank == self.root else None


def _reduced(asked: Asked) -> Any:
    """On the root alone; a tensor is what it was elsewhere."""
    total = asked.for_root(lambda: combined(asked.step.op, asked.every))
    if asked.step.kind != "tensor":
        return total
    return [total, asked.mine if total is None else total]


def _broadcast(asked: Asked) -> Any:
    """What is overwritten; of a tree also all of it, and that its tensors are the same ones."""
    if asked.step.kind == "tensor":
        return asked.sent
    return [asked.sent, arrays_in(asked.sent), True]


def _gathered(asked: Asked) -> Any:
    every = asked.every
    return torch.cat(every) if asked.step.way == "cat" else every


def _gathered_on_one(asked: Asked) -> Any:
    """On the root, or on the first where nobody is named."""
    if asked.step.way == "dst":
        return asked.for_root(lambda: asked.every)
    return asked.every if asked.place == 0 else None


def _received(asked: Asked) -> Any:
    step, count = asked.step, len(asked.members)
    parts = [swapped_part(step, one, asked.place, count) for one in asked.members]
    return torch.cat(parts) if step.way == "cat" else parts


def _sent(asked: Asked) -> Any:
    """What the other one of the pair has sent, if it sends."""
    sender, receiver = asked.members
    if asked.rank == sender:
        return asked.given_by(receiver) if asked.step.way == "both" else None
    return asked.given_by(sender)


def _scattered_part(asked: Asked) -> Any:
    count = len(asked.members)
    split = asked.step.way == "one"
    every = [one.tensor_split(count) if split else one for one in asked.every]
    return combined(asked.step.op, [parts[asked.place] for parts in every])


def _averaged(asked: Asked) -> Any:
    every, statistics = asked.every, ("norm.running_mean", "norm.running_var")
    means = {name: combined("mean", [one[name] for one in every]) for name in statistics}
    return {**asked.mine, **means}


def _shards(asked: Asked) -> Any:
    """This rank's samples, and all of them."""
    samples, whose = asked.mine
    size = sum(map(len, whose))
    shard = range(asked.place, size, len(asked.members))
    mine = whose[asked.place] if asked.step.way == "indices" else shard
    whole = asked.for_root(lambda: samples) if asked.step.way == "dst" else samples
    return [taken(samples, mine), whole]


def _meters(asked: Asked) -> Any:
    """Count and total of each meter, after each synchronisation."""
    told: dict[str, list[float]] = {}
    results = []
    for updates in zip(*asked.every, strict=True):
        for name, numbers in ((n, some) for one in updates for n, some in one.items() if some):
            told.setdefault(name, []).extend(numbers)
        results.append({name: [len(some), float(sum(some))] for name, some in told.items()})
    return results


def _gathered_with_gradient(asked: Asked) -> Any:
    """All ranks' data, and the gradient of one's own: the sum of what all multiply it with."""
    size = len(asked.mine)
    weights = [weight(asked.step, one, asked.rank, size) for one in asked.members]
    return [asked.every, _if_asked(asked, combined("sum", weights))]


def _reduced_with_gradient(asked: Asked) -> Any:
    step, every = asked.step, asked.every
    weights = [weight(step, one, 0, len(every[0])) for one in asked.members]
    return [combined(step.op, every), _if_asked(asked, combined(step.op, weights))]


def _if_asked(asked: Asked, gradient: torch.Tensor) -> torch.Tensor | None:
    """The gradient, where the rank asks for one."""
    return gradient if asked.step.way != "one asks" or asked.rank == asked.root else None


WANTED: dict[str, Callable[[Asked], Any]] = {
    "all_reduce": lambda asked: combined(asked.step.op, asked.every),
    "reduce": _reduced,
    "all_gather": _gathered,
    "gather": lambda asked: asked.for_root(lambda: asked.every),
    "gather_objects": _gathered_on_one,
    "all_gather_objects": lambda asked: asked.every,
    "all_to_all": _received,
    "broadcast": _broadcast,
    "broadcast_object": lambda asked: asked.sent,
    "broadcast_object_list": lambda asked: [asked.sent, asked.root],
    "scatter_objects": lambda asked: asked.sent[asked.place],
    "reduce_scatter": _scattered_part,
    "send": _sent,
    "synchronize": lambda _: None,
    "agree": lambda asked: (any if asked.step.src % 2 else all)(asked.every),
    "on_master": lambda asked: asked.given_by(asked.members[0]),
    "master_first": lambda _: True,
    "should_stop": lambda _: False,
    "sync_module": lambda asked: asked.sent,
    "average_buffers": _averaged,
    "check_same": lambda _: None,
    "gather_shards": _shards,
    "shared_seed": lambda _: None,
    "save": lambda asked: asked.given_by(asked.members[0]),
    "synchronize_between_processes": _meters,
    "autograd.all_gather": _gathered_with_gradient,
    "autograd.all_reduce": _reduced_with_gradient,
}
"""The result of each call; what is drawn anew at each call is judged elsewhere."""


def combined(op: str, values: Sequence[Any]) -> Any:
    """What a reduction makes of one value from each rank."""
    first = values[0]
    if isinstance(first, dict):
        return {key: combined(op, [value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [combined(op, list(column)) for column in zip(*values, strict=True)]
    if isinstance(first, torch.Tensor):
        return torch.from_numpy(_folded(op, [value.numpy() for value in values]))
    if isinstance(first, np.ndarray):
        return _folded(op, values)
    number: dict[str, Callable[[Any], Any]] = {"min": min, "max": max, "prod": math.prod}
    total = number.get(op, sum)(values)
    return total / len(values) if op == "mean" else total


def _folded(op: str, arrays: Sequence[Any]) -> Any:
    two = {"min": np.minimum, "max": np.maximum, "prod": np.multiply}.get(op, np.add)
    total = arrays[0].copy()
    for other in arrays[1:]:
        two(total, other, out=total)
    return total / len(arrays) if op == "mean" else total


def same(got: Any, expected: Any) -> bool:
    """Whether two results are of one kind and hold the same."""
    if type(got) is not type(expected):
        return False
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in expected)
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        alike = got.dtype == expected.dtype and got.shape == expected.shape
        return alike and _bytes(got) == _bytes(expected)
    if isinstance(expected, float):
        return struct.pack("d", got) == struct.pack("d", expected)
    return bool(got == expected)


def _bytes(array: Any) -> bytes:
    """All bits: NaN is NaN, and 0.0 is not -0.0."""
    if isinstance(array, torch.Tensor):
        plain = array.clone(memory_format=torch.contiguous_format).reshape(-1)
        return bytes(plain.view(torch.uint8).numpy().tobytes())
    return bytes(array.tobytes())
