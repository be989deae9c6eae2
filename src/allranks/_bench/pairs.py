"""The matrix of pairs: how fast messages go from every rank to every other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from allranks._bench.bandwidth import algorithm_bandwidth
from allranks._bench.cases import ITEM
from allranks._bench.measure import finish
from allranks._bench.results import Pair, PairMatrix
from allranks._bench.schedule import steps
from allranks._collectives.objects import all_gather_objects
from allranks._collectives.tensors import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

SMALL = ITEM
"""Bytes of the message whose round trip is a latency."""

LARGE, LARGE_ON_DEVICE = 4 * 2**20, 64 * 2**20
"""Bytes of the message that tells a bandwidth, on the CPU and elsewhere, where calls may be as
large: the time of the answer must be little beside it."""

ROUND_TRIPS, MESSAGES = 20, 5
"""How often each is sent; the first one does not count."""

MOST_STEPS = 2048
"""How many steps the matrix may take; a step is some hundredths of a second on a fast network."""


def large_message(most: int, device: torch.device) -> int:
    """Bytes of the large message, where no call may have more than so many."""
    wanted = min(most, LARGE if device.type == "cpu" else LARGE_ON_DEVICE)
    return max(wanted // ITEM, 1) * ITEM


def measured_pairs(
    hosts: Sequence[Sequence[int]],
    rank: int,
    large: int,
    device: torch.device,
    advance: Callable[[], None],
) -> PairMatrix:
    """Both directions of each pair. Collective over WORLD.

    Args:
        hosts: the ranks of each host that take part.
        rank: this rank, which need not be among them.
        large: bytes of the large message.
        device: where messages lie.
        advance: is called after each step.
    """
    ends = _Ends(rank, device, _message(SMALL, device), _message(large, device))
    mine: list[Pair] = []
    for step in steps(hosts):
        for pair in step:
            if rank in pair:
                mine += ends.measured(*pair)
        synchronize()  # The next pair may be of the same hosts.
        advance()
    pairs = tuple(pair for each in all_gather_objects(mine) for pair in each)
    ranks = tuple(sorted(rank for ranks in hosts for rank in ranks))
    return PairMatrix(ranks, SMALL, large, tuple(sorted(pairs, key=_place)))


def _message(size: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.zeros(size // ITEM, device=device)


def _place(pair: Pair) -> tuple[int, int]:
    return pair.source, pair.target


@dataclass(frozen=True)
class _Ends:
    """This rank as one end of pairs.

    Attributes:
        rank: this rank.
        device: where its messages lie.
        small: the small message, and every answer.
        large: the large message.
    """

    rank: int
    device: torch.device
    small: torch.Tensor
    large: torch.Tensor

    def measured(self, one: int, other: int) -> list[Pair]:
        """What this rank has measured as the source: its direction of the pair."""
        found = [self._direction(one, other), self._direction(other, one)]
        return [pair for pair in found if pair.source == self.rank]

    def _direction(self, source: int, target: int) -> Pair:
        there_and_back = self._exchanges(source, target, self.small, ROUND_TRIPS)
        large = self._exchanges(source, target, self.large, MESSAGES)
        bandwidth = algorithm_bandwidth(self.large.nbytes, large)
        return Pair(source, target, there_and_back / 2, bandwidth)

    def _exchanges(self, source: int, target: int, message: torch.Tensor, many: int) -> float:
        """Median seconds from a message's start until its answer is back; the first is left out."""
        seconds = []
        for _ in range(many):
            began = time.perf_counter()
            if self.rank == source:
                self._send(message, target)
                self._receive(self.small, target)
            else:
                self._receive(message, source)
                self._send(self.small, source)
            finish(self.device)
            seconds.append(time.perf_counter() - began)
        return median(seconds[1:])

    def _send(self, message: torch.Tensor, peer: int) -> None:
        import torch.distributed as dist

        _wait_for(dist.P2POp(dist.isend, message, peer))

    def _receive(self, message: torch.Tensor, peer: int) -> None:
        import torch.distributed as dist

        _wait_for(dist.P2POp(dist.irecv, message, peer))


def _wait_for(operation: Any) -> None:
    """Do one operation in a batch: so NCCL uses the connections of the whole group."""
    import torch.distributed as dist

    for work in dist.batch_isend_irecv([operation]):
        work.wait()
