"""CPUs and memory of each host, against the ranks that share it."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._doctor.checks import OK, WARNING, Check, at
from allranks._system import cpus, host_memory, processes
from allranks._system.words import counted, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allranks._doctor.checks import Place


@dataclass(frozen=True)
class Capacity:
    """What a rank may use of its host.

    Attributes:
        cpus: the numbers of the CPUs on which it may run.
        of_host: how many the host has.
        quota: how many CPUs its cgroup has time of; None without a quota.
        memory_left: bytes that its host, or its cgroup, has left; None where that cannot be seen.
        held: bytes that it holds, with torch imported.
    """

    cpus: tuple[int, ...]
    of_host: int
    quota: float | None
    memory_left: int | None
    held: int


def own_capacity() -> Capacity:
    """What this process may use."""
    quota = cpus.quota()
    return Capacity(
        tuple(cpus.affinity()),
        os.cpu_count() or 1,
        None if quota == math.inf else quota,
        host_memory.left(),
        processes.resident(),
    )


def capacity_rows(of: Mapping[Place, Capacity]) -> list[Check]:
    """Rows on CPUs and memory: of hosts that have too little, else of the one that has least."""
    hosts: dict[int, list[Place]] = defaultdict(list)
    for place in sorted(of):
        hosts[place.node].append(place)
    cpu = [_cpus(places, [of[one] for one in places]) for places in hosts.values()]
    memory = [_memory(places, [of[one] for one in places]) for places in hosts.values()]
    return [*_wrong_or_first(cpu), *_wrong_or_first(memory)]


def _wrong_or_first(rows: Sequence[Check]) -> Iterator[Check]:
    wrong = [row for row in rows if row.status != OK]
    yield from wrong or rows[:1]


def _cpus(places: Sequence[Place], ranks: Sequence[Capacity]) -> Check:
    """A rank that computes, or waits on gloo, keeps one CPU busy."""
    count: float = len({cpu for rank in ranks for cpu in rank.cpus})
    count = min([count, *(rank.quota for rank in ranks if rank.quota)])
    seen = f"{count:g} {'CPU' if count == 1 else 'CPUs'} for {counted(len(ranks), 'rank')}"
    if count >= len(ranks):
        return Check("CPUs", OK, f"{seen} of a host")
    return at(places, Check("CPUs", WARNING, seen, _more_cpus(ranks[0], len(ranks))))


def _more_cpus(first: Capacity, ranks: int) -> str:
    """Lift what keeps the ranks from the host's CPUs; where it has too few, start fewer ranks."""
    if first.of_host < ranks:
        return f"allranks run -n {first.of_host} ..."
    if len(first.cpus) < first.of_host:
        return f"taskset -cp 0-{first.of_host - 1} $$"
    return f"docker run --cpus={ranks} ..."


def _memory(places: Sequence[Place], ranks: Sequence[Capacity]) -> Check:
    """A rank will hold at least as much again as it does with torch alone."""
    left = [rank.memory_left for rank in ranks if rank.memory_left is not None]
    held = sum(rank.held for rank in ranks)
    if not left:
        return Check("memory", OK, "this system does not tell how much is left")
    told = f"{size(min(left))} left for {counted(len(ranks), 'rank')}"
    seen = f"{told}, which {'holds' if len(ranks) == 1 else 'hold'} {size(held)} now"
    if min(left) >= held:
        return Check("memory", OK, seen)
    remedy = f"srun --mem={max(1, math.ceil(4 * held / 2**30))}G ..."
    return at(places, Check("memory", WARNING, seen, remedy))
