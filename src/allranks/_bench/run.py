"""A run: which calls there are to time, one after the other, and then the pairs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allranks._bench.cases import CASES
from allranks._bench.measure import measured
from allranks._bench.memory import available_to_rank, fitting
from allranks._bench.pairs import MOST_STEPS, large_message, measured_pairs
from allranks._bench.progress import bar
from allranks._bench.results import Report
from allranks._bench.schedule import number_of_steps, steps, thinned
from allranks._collectives.all_reduce import all_reduce
from allranks._system import words
from allranks._system.words import tell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from allranks._bench.cases import Case
    from allranks._bench.plan import Plan
    from allranks._bench.progress import Bar
    from allranks._bench.results import Row, Setting
    from allranks._launchers.world import World


def measured_run(plan: Plan, setting: Setting, device: torch.device, world: World) -> Report:
    """All figures. Collective.

    Args:
        plan: what to measure.
        setting: where.
        device: this rank's.
        world: this rank's, after ``setup``.
    """
    began = time.time()
    sizes = _sizes(plan, device, world)
    calls = _calls(plan, sizes, setting.world_size)
    hosts = thinned(setting.ranks_by_host(), MOST_STEPS) if plan.pairs else []
    pair_steps = len(list(steps(hosts)))
    if world.rank == 0:
        least = f"{len(calls) * plan.seconds:.0f} s"
        tell(f"measuring {len(calls)} calls, {least} at least, and {pair_steps} steps of pairs")
    with bar(len(calls) + pair_steps, here=world.rank == 0) as shown:
        rows = tuple(_rows(calls, setting.world_size, device, plan.seconds, shown))
        shown.say("pairs")
        large = large_message(sizes[-1], device)
        pairs = measured_pairs(hosts, world.rank, large, device, shown.advance) if hosts else None
    notes = (*_left_out(plan, sizes), *_thinned(setting, hosts), *_lacking(rows))
    return Report(setting, began, rows, pairs, notes)


def _calls(plan: Plan, sizes: Sequence[int], ranks: int) -> list[tuple[Case, int]]:
    """Each collective at each of the sizes that it can have."""
    cases = [case for case in CASES if case.name in plan.collectives]
    return [(case, size) for case in cases for size in case.sizes(sizes, ranks)]


def _rows(
    calls: Sequence[tuple[Case, int]], ranks: int, device: torch.device, seconds: float, shown: Bar
) -> Iterator[Row]:
    """What each call takes."""
    for case, size in calls:
        shown.say(f"{case.name}, {words.size(size)}")
        yield measured(case, size, ranks, device, seconds)
        shown.advance()


def _sizes(plan: Plan, device: torch.device, world: World) -> list[int]:
    """The sizes for which every rank has the memory; the least one in any case."""
    own = available_to_rank(device, world.local_world_size or 1)
    available = all_reduce(own, op="min")
    return fitting(plan.sizes(), available) or plan.sizes()[:1]


def _left_out(plan: Plan, sizes: Sequence[int]) -> Iterator[str]:
    missing = [size for size in plan.sizes() if size not in sizes]
    if missing:
        largest = f"the largest that fits the memory of every rank is {words.size(sizes[-1])}"
        yield f"sizes from {words.size(missing[0])} on were left out: {largest}"


def _thinned(setting: Setting, hosts: Sequence[Sequence[int]]) -> Iterator[str]:
    whole = setting.ranks_by_host()
    count, all_steps = max(map(len, hosts), default=0), number_of_steps(whole)
    if count and count < max(map(len, whole)):
        taken = "the first rank" if count == 1 else f"the first {count} ranks"
        yield f"of each host only {taken} stand in the pairs: all ranks need {all_steps:,} steps"


def _lacking(rows: Sequence[Row]) -> Iterator[str]:
    """What the backend said, once for each collective."""
    for name, note in dict.fromkeys((row.collective, row.note) for row in rows if row.note):
        yield f"torch's {name} is not there: {note}"
