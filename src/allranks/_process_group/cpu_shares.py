"""Which CPUs a rank gets: those beside its GPU, else its part of the cores. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.words import counted, ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._system.numa import Core


class Host(NamedTuple):
    """What the ranks of a host have in common.

    Attributes:
        cores: those that they may use, the ones of a NUMA node side by side.
        ranks: how many ranks share them.
        quota: how many CPUs' time they may take, all together.
    """

    cores: Sequence[Core]
    ranks: int
    quota: float = math.inf


class Device(NamedTuple):
    """What a rank computes on.

    Attributes:
        name: "cpu", "cuda:3" and so on.
        node: its NUMA node; None of a CPU, and where the system does not tell.
        ranks: how many ranks of the host have theirs on that node, as far as is known.
    """

    name: str
    node: int | None = None
    ranks: int = 1


class Share(NamedTuple):
    """What a rank gets.

    Attributes:
        cpus: the numbers of its CPUs.
        threads: how many threads of each rank can compute at once there.
    """

    cpus: tuple[int, ...]
    threads: int

    def __str__(self) -> str:
        kind = "CPU" if len(self.cpus) == 1 else "CPUs"
        return f"{kind} {ranges(self.cpus)}, {counted(self.threads, 'thread')}"


def share_of(place: int, device: Device, host: Host) -> Share | str:
    """The share of one rank, or a sentence on why it has none.

    Ranks with GPUs on one node share all cores of it, so that one that loads much data finds some
    that are idle. Ranks on the CPU, which all compute at once, get as many cores each, give or take
    one, and no core is shared.

    Args:
        place: its number among the ranks of its host.
        device: its own.
        host: what it shares with them.
    """
    if device.name != "cpu":
        return _beside(device, host)
    count, ranks = len(host.cores), host.ranks
    if count < ranks:
        return f"{counted(ranks, 'rank')} on a host, which may use {counted(count, 'core')}"
    mine = host.cores[place * count // ranks : (place + 1) * count // ranks]
    return _share(mine, 1, host)


def _beside(device: Device, host: Host) -> Share | str:
    if device.node is None:
        return f"the system does not tell on which NUMA node {device.name} is"
    near = [core for core in host.cores if core.node == device.node]
    if not near:
        return f"{device.name} is on NUMA node {device.node}, of which no CPU may be used here"
    return _share(near, device.ranks, host)


def _share(cores: Sequence[Core], ranks: int, host: Host) -> Share:
    cpus = tuple(sorted(cpu for core in cores for cpu in core.cpus))
    return Share(cpus, max(1, int(min(len(cores) / ranks, host.quota / host.ranks))))
