"""What is recognised, for people (a table, a page of documentation) and for programs (JSON)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from allranks._migrate.recognise import HELPER, INLINE, NO_RANKS, RECOGNISED, UNKNOWN
from allranks._migrate.rows import SECTIONS
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from allranks._migrate.recognise import Recognition
    from allranks._migrate.row import Row

HEAD = """\
# What to write instead

`allranks migrate FILE...` reads a `dist_utils.py`, `misc.py`, `comm.py` or `torch_utils.py` by its
syntax tree, without running it, and says for each function what to write instead. It goes by this
table: a function is recognised by one of its names, if its body does what that name is for; or by
its body alone, if that is small and does nothing else. `--diff` prints a patch for review, and
`--json` is for programs.

This page is made of the rows in `src/allranks/_migrate/`:
`python -m allranks._migrate.shown > docs/migrate.md`.
"""


def table(name: str, recognised: Sequence[Recognition]) -> Table:
    """A file's functions, ours, the lines to write, and what differs."""
    from rich.table import Table
    from rich.text import Text

    shown = Table("function", "ours", "write", "what differs", title=printable(name))
    shown.title_justify = "left"
    for one in recognised:
        if one.status != NO_RANKS or one.note:
            shown.add_row(*(Text(printable(cell), overflow="fold") for cell in _cells(one)))
    return shown


def _cells(one: Recognition) -> tuple[str, str, str, str]:
    function = f"{one.name}, line {one.line}"
    if one.status in (UNKNOWN, NO_RANKS):
        return function, "-", "", f"{one.status}{': ' if one.note else ''}{one.note}"
    if one.status == HELPER:
        return function, "-", "", one.note
    note = f"known by its {one.known_by}; {one.note}" if one.known_by == "body" else one.note
    return function, one.ours or "-", one.write or "(nothing: no longer needed)", note.strip("; ")


def summary(recognised: Sequence[Recognition]) -> str:
    """How many functions there are of each kind, and those that are not about ranks by name."""
    count = Counter(one.status for one in recognised)
    parts = [
        f"{count[status]} {words}"
        for status, words in (
            (RECOGNISED, "recognised"),
            (HELPER, "helpers of these"),
            (UNKNOWN, "not recognised"),
            (NO_RANKS, "not about ranks"),
            (INLINE, "calls in no function"),
        )
        if count[status]
    ]
    others = [one.name for one in recognised if one.status == NO_RANKS and not one.note]
    told = ", ".join(parts) or "no functions"
    return f"{told}{'. Not about ranks: ' if others else ''}{', '.join(others)}"


def plain(recognised: Sequence[Recognition]) -> list[dict[str, Any]]:
    """The same for programs."""
    fields = ("name", "line", "status", "known_by", "ours", "write", "note")
    return [{field: getattr(one, field) for field in fields} for one in recognised]


def page() -> str:
    """The page of the documentation: all rows."""
    return "\n".join([HEAD, *_page_lines()])


def _page_lines() -> Iterator[str]:
    for title, rows in SECTIONS:
        yield f"## {title}\n"
        yield "| It goes by | Write | What differs |"
        yield "| --- | --- | --- |"
        for row in rows:
            yield f"| {_names(row)} | {_line(row)} | {_cell(row.differs)} |"
        yield ""


def _names(row: Row) -> str:
    first, *others = row.names.split()
    shown = ", ".join(f"`{name}`" for name in (first, *others[:3]))
    kind = {"class": " (class)", "method": " (method)"}.get(row.kind, "")
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"{shown}{more}{kind}"


def _line(row: Row) -> str:
    return f"`{row.line}`" if row.line else "nothing: it is no longer needed"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
