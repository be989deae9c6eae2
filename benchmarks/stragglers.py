"""What it costs to know who is slow: a loop of small calls with it and without, in turns.

The same ranks run blocks of calls, in which the calls note themselves or not, and are counted for
a report or not. A difference is made of two neighbours; the median of the differences is shown.

    python benchmarks/stragglers.py
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import TYPE_CHECKING
from unittest import mock

from rich.console import Console

import allranks
from allranks._stragglers import reports
from allranks._transport import process_groups
from allranks._transport.headers import AFTERWARDS
from allranks._watch.waits import Waits
from startup_tables import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS, ROUNDS = 4096, 21


def block() -> float:
    """Seconds a call, over many."""
    began = time.perf_counter()
    for _ in range(CALLS):
        allranks.all_reduce(1)
    return (time.perf_counter() - began) / CALLS


def note_nothing(*_: object) -> None:
    """In place of what notes a call."""


def bare() -> float:
    """A block of calls that note nothing."""
    with mock.patch.object(Waits, "note", note_nothing):
        return block()


def reported() -> float:
    """A block of calls that are counted for a report as well."""
    members = process_groups.members_of("benchmark", None)
    members.cache[AFTERWARDS] = members.cache["benchmark"].after_exchange
    try:
        return block()
    finally:
        del members.cache[AFTERWARDS]


def differences(one: Callable[[], float], other: Callable[[], float]) -> list[tuple[float, float]]:
    """Seconds a call, of both, in turns."""
    pairs = []
    for turn in range(ROUNDS):
        first, second = (one, other) if turn % 2 else (other, one)
        times = {first: first(), second: second()}
        pairs.append((times[one], times[other]))
    return pairs


def measured() -> dict[str, list[tuple[float, float]]]:
    """Pairs of seconds a call, on one rank: with and without."""
    with allranks.session(cpu=True):
        block()
        members = process_groups.members_of("benchmark", None)
        members.cache["benchmark"] = reports.begin(600.0)
        del members.cache[AFTERWARDS]
        reported()
        return {
            "calls are noted (always)": differences(block, bare),
            "and counted (ALLRANKS_REPORT)": differences(reported, block),
        }


def row(ranks: int, what: str, pairs: list[tuple[float, float]]) -> tuple[str, ...]:
    """A line of the table."""
    extra = sorted(1e6 * (with_ - without) for with_, without in pairs)
    share = median(with_ / without - 1 for with_, without in pairs)
    spread = f"{extra[ROUNDS // 4]:+.2f} to {extra[-1 - ROUNDS // 4]:+.2f} us"
    without = 1e6 * median(one for _, one in pairs)
    more = f"{median(extra):+.2f} us"
    return str(ranks), what, f"{without:.1f} us", more, spread, f"{share:+.1%}"


def main() -> None:
    """Measure, and print the table."""
    os.environ.pop("ALLRANKS_REPORT", None)
    rows = []
    for ranks in (2, 4):
        told = allranks.launch(measured, ranks=ranks)[0]
        rows += [row(ranks, what, pairs) for what, pairs in told.items()]
    head = ("ranks", "what", "a call without", "more", "middle half", "share")
    Console().print(Grid("Who is slow: what a small call costs more", head, tuple(rows)).rich())


if __name__ == "__main__":
    main()
