"""CPUs and memory of each host, against the ranks that share it."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._doctor.checks import OK, WARNING, Check, at
from allranks._system import cpus, host_memory, numa, processes, variables
from allranks._system.words import counted, ranges, size

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
        cores: how many cores those CPUs are of.
        gpu_node: the NUMA node of its GPU; None without any, or where the system does not tell.
        near: how many of its CPUs are there.
    """

    cpus: tuple[int, ...]
    of_host: int
    quota: float | None
    memory_left: int | None
    held: int
    cores: int
    gpu_node: int | None = None
    near: int = 0


def own_capacity(gpu_node: int | None) -> Capacity:
    """What this process may use.

    Args:
        gpu_node: the NUMA node of its GPU, or None.
    """
    quota = cpus.quota()
    cores = numa.cores(cpus.affinity())
    return Capacity(
        tuple(cpus.affinity()),
        os.cpu_count() or 1,
        None if quota == math.inf else quota,
        host_memory.left(),
        processes.resident(),
        len(cores),
        gpu_node,
        sum(len(core.cpus) for core in cores if core.node == gpu_node),
    )


def capacity_rows(of: Mapping[Place, Capacity]) -> list[Check]:
    """Rows on CPUs, binding and memory: of the hosts where it is wrong, else of the first."""
    hosts: dict[int, list[Place]] = defaultdict(list)
    for place in sorted(of):
        hosts[place.node].append(place)
    cpu = [_cpus(places, [of[one] for one in places]) for places in hosts.values()]
    memory = [_memory(places, [of[one] for one in places]) for places in hosts.values()]
    binding = [row for places in hosts.values() for row in _binding({p: of[p] for p in places})]
    return [row for rows in (cpu, binding, memory) for row in _wrong_or_first(rows)]


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


def _binding(ranks: Mapping[Place, Capacity]) -> list[Check]:
    """Ranks that crowd on one core though there are others, and ranks far from their GPUs."""
    first = ranks[min(ranks)]
    remedy = f"taskset -cp 0-{first.of_host - 1} $$"
    by_cpus: dict[tuple[int, ...], list[Place]] = defaultdict(list)
    for place, rank in ranks.items():
        by_cpus[rank.cpus].append(place)
    wrong = [
        at(places, Check("binding", WARNING, f"all on one core, CPUs {ranges(only)}", remedy))
        for only, places in by_cpus.items()
        if len(places) > 1 and len(by_cpus) > 1 and ranks[places[0]].cores == 1
    ]
    if far := [place for place, one in ranks.items() if one.gpu_node is not None and not one.near]:
        seen = "no CPU on the NUMA node of its GPU"
        wrong.append(at(far, Check("binding", WARNING, seen, remedy)))
    return wrong or [Check("binding", OK, _bound(list(by_cpus), first))]


def _bound(shares: Sequence[tuple[int, ...]], first: Capacity) -> str:
    if len(shares) > 1:
        fewest = counted(min(map(len, shares)), "CPU")
        return f"the ranks of a host are bound, to {fewest} or more each"
    strays = first.gpu_node is not None and first.near < len(first.cpus)
    hint = f"; {variables.BIND}=numa keeps each on the NUMA node of its GPU" * strays
    return f"the ranks of a host may all run on {counted(len(first.cpus), 'CPU')}{hint}"


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
