"""The collectives that are measured: our call, and torch's on the same tensors.

torch's calls write into tensors that were made before, as those of nccl-tests do; of ours,
``all_gather``, ``reduce_scatter``, ``all_to_all`` and those of objects make new ones each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from allranks._bench import bandwidth
from allranks._collectives.all_reduce import all_reduce
from allranks._collectives.all_to_all import all_to_all
from allranks._collectives.broadcast import broadcast
from allranks._collectives.objects import all_gather_objects
from allranks._collectives.tensors import all_gather, reduce_scatter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    Call: TypeAlias = Callable[[], Any]

ITEM = 4
"""Bytes of an element: all data are float32."""


class Calls(NamedTuple):
    """The two calls that are compared."""

    ours: Call
    torchs: Call


class Buffers(NamedTuple):
    """What calls are made of.

    Attributes:
        ranks: the number of ranks.
        elements: how many float32 the larger buffer of the call has.
        device: where it lies.
    """

    ranks: int
    elements: int
    device: torch.device

    def whole(self) -> torch.Tensor:
        """A tensor of all elements: zeros, whose sums stay what they are."""
        import torch

        return torch.zeros(self.elements, device=self.device)

    def part(self) -> torch.Tensor:
        """A tensor of one rank's share of the elements."""
        import torch

        return torch.zeros(self.elements // self.ranks, device=self.device)


@dataclass(frozen=True)
class Case:
    """A collective.

    Attributes:
        name: what it is called.
        make: makes both calls.
        bus_factor: its factor, by the number of ranks.
        parted: whether the elements are divided among the ranks.
    """

    name: str
    make: Callable[[Buffers], Calls]
    bus_factor: Callable[[int], float]
    parted: bool = False

    def sizes(self, wanted: Sequence[int], ranks: int) -> list[int]:
        """The sizes that it can have, in bytes: whole elements, as many for each rank."""
        unit = ITEM * ranks if self.parted else ITEM
        return sorted({-(-size // unit) * unit for size in wanted})


def _all_reduce(buffers: Buffers) -> Calls:
    import torch.distributed as dist

    data = buffers.whole()
    return Calls(lambda: all_reduce(data), lambda: dist.all_reduce(data))


def _broadcast(buffers: Buffers) -> Calls:
    import torch.distributed as dist

    data = buffers.whole()
    return Calls(lambda: broadcast(data, 0), lambda: dist.broadcast(data, 0))


def _all_gather(buffers: Buffers) -> Calls:
    part, whole = buffers.part(), buffers.whole()
    torchs = _torchs("all_gather_single", "all_gather_into_tensor")
    return Calls(lambda: all_gather(part, cat=True), lambda: torchs(whole, part))


def _reduce_scatter(buffers: Buffers) -> Calls:
    part, whole = buffers.part(), buffers.whole()
    torchs = _torchs("reduce_scatter_single", "reduce_scatter_tensor")
    return Calls(lambda: reduce_scatter(whole), lambda: torchs(part, whole))


def _torchs(name: str, before: str) -> Callable[..., Any]:
    """A function of ``torch.distributed``, by its name or by the one before torch 2.13."""
    import torch.distributed as dist

    found: Callable[..., Any] = getattr(dist, name, None) or getattr(dist, before)
    return found


def _all_to_all(buffers: Buffers) -> Calls:
    import torch.distributed as dist

    sent, received = buffers.whole(), buffers.whole()
    return Calls(lambda: all_to_all(sent), lambda: dist.all_to_all_single(received, sent))


def _objects(buffers: Buffers) -> Calls:
    """Arrays, which is what large objects are made of."""
    import numpy as np
    import torch.distributed as dist

    mine = {"array": np.zeros(buffers.elements // buffers.ranks, np.float32)}
    gathered: list[Any] = [None] * buffers.ranks
    return Calls(lambda: all_gather_objects(mine), lambda: dist.all_gather_object(gathered, mine))


CASES = (
    Case("all_reduce", _all_reduce, bandwidth.of_all_reduce),
    Case("all_gather", _all_gather, bandwidth.of_parts, parted=True),
    Case("broadcast", _broadcast, bandwidth.of_broadcast),
    Case("reduce_scatter", _reduce_scatter, bandwidth.of_parts, parted=True),
    Case("all_to_all", _all_to_all, bandwidth.of_parts, parted=True),
    Case("objects", _objects, bandwidth.of_parts, parted=True),
)
"""All of ``plan.COLLECTIVES``; ``objects`` is ``all_gather_objects``."""
