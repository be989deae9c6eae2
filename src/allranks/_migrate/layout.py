"""How what is recognised, and what to write, is laid out: in a table, or in lines that fit."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from allranks._migrate.recognise import HELPER, NO_RANKS, UNKNOWN
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from allranks._migrate.call_sites import Site
    from allranks._migrate.editing import Change
    from allranks._migrate.recognise import Recognition

NARROWEST_TABLE = 140
"""Columns below which a table's cells would be more folds than text."""

HEADS = ("function", "ours", "write", "what differs")

BORDERS = 3 * len(HEADS) + 1
"""Columns that a table takes beside its cells."""


def table(name: str, recognised: Sequence[Recognition], width: int) -> Table | None:
    """A file's functions, ours, the lines to write, and what differs; None if it does not fit.

    Args:
        name: the file's.
        recognised: what is recognised in it.
        width: the columns that there are.
    """
    from rich.table import Column, Table
    from rich.text import Text

    rows = [_cells(one) for one in recognised if _is_shown(one)]
    widths = _widths([HEADS, *rows], width - BORDERS)
    if width < NARROWEST_TABLE or not widths:
        return None
    columns = [Column(head, width=cells) for head, cells in zip(HEADS, widths, strict=True)]
    shown = Table(*columns, title=printable(name), title_justify="left")
    for row in rows:
        shown.add_row(*(Text(cell, overflow="fold") for cell in row))
    return shown


def _cells(one: Recognition) -> list[str]:
    function = f"{one.name}, line {one.line}"
    cells = (
        function,
        one.ours or "-",
        _write(one),
        "\n".join(_differs(one)).replace("leaves   ", "leaves "),
    )
    return [printable(cell) for cell in cells]


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """How wide each column is: its longest word, and its share of the rest; none if that is more.

    Told to rich, since what its own columns share may be wider than the table.
    """
    columns = list(zip(*rows, strict=True))
    least = [max(map(_longest_word, cells)) for cells in columns]
    wished = [
        max(map(_longest_line, cells)) - low for cells, low in zip(columns, least, strict=True)
    ]
    spare = width - sum(least)
    if spare < 0:
        return []
    share = min(1.0, spare / max(1, sum(wished)))
    return [low + int(more * share) for low, more in zip(least, wished, strict=True)]


def _longest_line(text: str) -> int:
    return max(map(len, text.splitlines()), default=1)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=1)


def listed(name: str, recognised: Sequence[Recognition], width: int) -> Iterator[str]:
    """The same as lines of at most so many columns, broken between words."""
    yield from wrapped(name, width)
    for one in recognised:
        if _is_shown(one):
            yield from wrapped(f"{one.name}, line {one.line}", width, "  ")
            if write := _write(one):
                yield from wrapped(f"write    {write}", width, "      ", "               ")
            for line in _differs(one):
                label = "" if line.startswith("leaves ") else "differs  "
                yield from wrapped(f"{label}{line}", width, "      ", "               ")


def site_lines(site: Site, width: int) -> Iterator[str]:
    """What to write in a file: each place with what is there and what to write."""
    for change in site.changes:
        yield from _change(site.source.name, change, width)
    for line, note in site.notes:
        yield from wrapped(f"{site.source.name}:{line}  look: {note}", width, "", "    ")


def _change(name: str, change: Change, width: int) -> Iterator[str]:
    place = f"{name}:{change.line}  {change.shown}"
    lines = [line.strip() for line in change.shown_new.split("\n")]
    if change.by_hand:
        told = lines[0] if lines[0].startswith("(") else f"as in: {lines[0]}"
        lines = [f"by hand, {told}; {change.by_hand}"]
    if len(lines) == 1 and len(f"{place}  ->  {lines[0]}") <= width:
        yield printable(f"{place}  ->  {lines[0]}")
        return
    yield from wrapped(place, width, "", "    ")
    for line in lines:
        yield from wrapped(f"->  {line}", width, "    ", "        ")


def wrapped(text: str, width: int, first: str = "", later: str | None = None) -> list[str]:
    """A text as lines, broken between words alone."""
    return textwrap.wrap(
        printable(text),
        max(width, len(first) + 20),
        initial_indent=first,
        subsequent_indent=f"{first}  " if later is None else later,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _is_shown(one: Recognition) -> bool:
    return one.status != NO_RANKS or bool(one.note)


def _write(one: Recognition) -> str:
    if one.status in (UNKNOWN, NO_RANKS, HELPER):
        return ""
    return one.write or "(nothing: no longer needed)"


def _differs(one: Recognition) -> Iterator[str]:
    """What differs, and what a set-up function leaves on its arguments, a line for each."""
    if one.status in (UNKNOWN, NO_RANKS):
        yield f"{one.status}{': ' if one.note else ''}{one.note}"
    elif one.known_by == "body":
        yield f"known by its body; {one.note}".strip("; ")
    elif one.note:
        yield one.note
    for name, read in one.leaves:
        yield f"leaves   {name} {read}" if read[0] == "(" else f"leaves   {name}: read {read}"
