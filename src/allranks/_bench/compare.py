"""A run beside an earlier one: what has changed by more than both runs spread."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from allranks._bench import units
from allranks._bench.table import grid, with_firsts
from allranks._system import words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from allranks._bench.results import Report, Setting, Timing

HEAD = ("collective", "size", "ours", "before, µs", "now, µs", "torch's", "before, µs", "now, µs")

LEGEND = (
    "Time now by the time before: below 1x it is faster now.\n"
    "It says slower or faster where the middle halves of both runs' turns do not meet."
)


def why_not_comparable(old: Setting, new: Setting) -> str:
    """Why figures of one run say nothing about the other; "" where they do."""
    told = [
        f"{name} {getattr(old, name)!r}, and now {getattr(new, name)!r}"
        for name in ("world_size", "backend", "device")
        if getattr(old, name) != getattr(new, name)
    ]
    return f"it was measured with {'; '.join(told)}" if told else ""


def compared(old: Report, new: Report, path: Path) -> RenderableType:
    """Both runs for the terminal.

    Args:
        old: the earlier run.
        new: this one.
        path: where the earlier one comes from.
    """
    before = {(row.collective, row.bytes): row for row in old.rows}
    table = grid(f"compared with {path}: {units.headline(old.setting)}", HEAD)
    for row, first in with_firsts(row for row in new.rows if (row.collective, row.bytes) in before):
        then = before[row.collective, row.bytes]
        if first:
            table.add_section()
        cells = (*_change(then.ours, row.ours), *_change(then.torchs, row.torchs))
        table.add_row(row.collective if first else "", words.size(row.bytes), *cells)
    return Group(table, *map(Text, (LEGEND, *_differences(old, new), *_pairs(old, new))))


def verdict(old: Timing, new: Timing) -> str:
    """Whether a time has changed by more than both runs spread: slower, faster, or ""."""
    if new.low > old.high:
        return "slower"
    return "faster" if new.high < old.low else ""


def _change(old: Timing | None, new: Timing | None) -> tuple[str, str, str]:
    if old is None or new is None:
        return "", "", ""
    told = f"{verdict(old, new)} {new.seconds / old.seconds:.2f}x"
    return told.strip(), units.microseconds(old.seconds), units.microseconds(new.seconds)


def _differences(old: Report, new: Report) -> Iterator[str]:
    """What else is not as it was."""
    for name in ("hosts", "launcher", "allranks", "torch"):
        then, now = getattr(old.setting, name), getattr(new.setting, name)
        if then != now:
            yield f"note: the runs differ in {name}"
    then_rows, now_rows = ({(row.collective, row.bytes) for row in run.rows} for run in (old, new))
    if alone := len(then_rows ^ now_rows):
        yield f"note: {alone} of the calls are in one of the runs only, and not shown"


def _pairs(old: Report, new: Report) -> Iterator[str]:
    """How the pairs' bandwidths have changed: in the median, at worst and at best."""
    if not (old.pairs and new.pairs) or old.pairs.large != new.pairs.large:
        return
    before = {(pair.source, pair.target): pair.bandwidth for pair in old.pairs.pairs}
    changed = {
        pair: pair.bandwidth / before[pair.source, pair.target]
        for pair in new.pairs.pairs
        if (pair.source, pair.target) in before
    }
    if changed:
        yield f"Pairs: {median(changed.values()):.2f}x the bandwidth of before in the median;"
        for pair in (min(changed, key=changed.__getitem__), max(changed, key=changed.__getitem__)):
            yield f"  {changed[pair]:.2f}x from {units.ends_of(pair, new.setting)}"
