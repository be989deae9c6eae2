"""A run as a table for the terminal, and its pairs in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from allranks._bench import units
from allranks._system import words
from allranks._system.printable import printable
from allranks._system.words import ranges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from allranks._bench.results import PairMatrix, Report, Row, Setting

HEAD = (
    "collective",
    "size",
    "ours, µs",
    "torch's, µs",
    "torch's/ours",
    "algbw, GB/s",
    "busbw, GB/s",
    "torch's busbw",
)

LEGEND = (
    "Medians of the slowest rank; torch's/ours above 1: ours is faster.\n"
    "algbw and busbw are ours, as nccl-tests define them; 1 GB/s is 1e9 bytes a second."
)


def shown(report: Report) -> RenderableType:
    """A run for the terminal."""
    table = grid(f"allranks bench: {units.headline(report.setting)}", HEAD)
    for row, first in with_firsts(report.rows):
        if first:
            table.add_section()
        table.add_row(row.collective if first else "", *_cells(row))
    pairs = _pairs(report.pairs, report.setting) if report.pairs else ()
    notes = [f"note: {note}" for note in report.notes]
    return Group(table, *(Text(printable(line)) for line in (LEGEND, *pairs, *notes)))


def grid(title: str, head: Sequence[str]) -> Table:
    """An empty table whose first column holds words, and the others figures."""
    table = Table(box=SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def with_firsts(rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
    """Each row, and whether it is the first one of its collective."""
    before = ""
    for row in rows:
        yield row, row.collective != before
        before = row.collective


def _cells(row: Row) -> tuple[str, ...]:
    size, ours = words.size(row.bytes), units.microseconds(row.ours.seconds)
    mine = units.gigabytes(row.ours.algbw), units.gigabytes(row.ours.busbw)
    if row.torchs is None or row.ratio is None:
        return size, ours, "not there", "", *mine, ""
    theirs = units.microseconds(row.torchs.seconds)
    return size, ours, theirs, f"{row.ratio:.2f}x", *mine, units.gigabytes(row.torchs.busbw)


def _pairs(matrix: PairMatrix, setting: Setting) -> Iterator[str]:
    """The extremes of the matrix."""
    fastest = max(matrix.pairs, key=lambda pair: pair.bandwidth)
    nearest = min(matrix.pairs, key=lambda pair: pair.latency)
    slowest, latest = matrix.slowest, matrix.latest
    told = f"Pairs of ranks {ranges(matrix.ranks)}, {len(matrix.pairs)} of them"
    yield f"{told}; no host was in two at a time:"
    yield (
        f"  slowest pair: {units.ends_of(slowest, setting)}, {units.bandwidth_of(slowest)} with "
        f"{words.size(matrix.large)}; the fastest has {units.bandwidth_of(fastest)}"
    )
    yield (
        f"  highest latency: {units.ends_of(latest, setting)}, {units.latency_of(latest)}; the "
        f"lowest is {units.latency_of(nearest)}"
    )
