"""Who waits for whom, drawn: those who wait on the left, those who do not on the right."""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.printable import printable
from allranks._system.words import ranges
from allranks._watch.status_report import GONE, LEFT, RUNNING, SILENT, STOPPED, WAITING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._status.waiting_for import Stand

WIDTH, GAP, LINE, PAD = 430, 200, 19, 12
"""Of a box, between the columns, from line to line, and within a box, in pixels."""

SHOWN = 24
"""How many boxes are drawn, at most; the table has all."""

LETTERS = 54
"""In a line of a box."""

COLOURS = {
    WAITING: ("#fff7e0", "#b45309"),
    RUNNING: ("#e6f0ff", "#1d4ed8"),
    STOPPED: ("#fde8e8", "#b91c1c"),
    GONE: ("#fde8e8", "#b91c1c"),
    SILENT: ("#fde8e8", "#b91c1c"),
    LEFT: ("#eef0f3", "#5a6478"),
}
"""How a box is filled, and drawn, by what its ranks do."""

HEAD = (
    '<defs><marker id="to" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#5a6478"/></marker></defs>'
)


class _Box(NamedTuple):
    stand: Stand
    lines: list[str]
    x: int
    y: int

    @property
    def height(self) -> int:
        return LINE * len(self.lines) + 2 * PAD

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


def waiting_picture(stands: Sequence[Stand]) -> str:
    """As SVG."""
    boxes = _boxes(stands[:SHOWN])
    height = max((box.y + box.height for box in boxes), default=0) + PAD
    arrows = [_arrow(box, boxes[at]) for box in boxes for at in box.stand.waits_for if at < SHOWN]
    width = 2 * WIDTH + GAP + 2 * PAD
    more = len(stands) - len(boxes)
    note = f"<p>{more} more places: see the table.</p>" if more > 0 else ""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="who waits for whom">{HEAD}{"".join(arrows)}{"".join(map(_drawn, boxes))}'
        f"</svg>{note}"
    )


def _boxes(stands: Sequence[Stand]) -> list[_Box]:
    """The boxes, below each other in two columns."""
    left = right = PAD
    boxes = []
    for stand in stands:
        waits = stand.state == WAITING
        box = _Box(
            stand,
            _lines(stand),
            PAD if waits else PAD + WIDTH + GAP,
            left if waits else right,
        )
        boxes.append(box)
        if waits:
            left += box.height + 2 * PAD
        else:
            right += box.height + 2 * PAD
    return boxes


def _lines(stand: Stand) -> list[str]:
    ranks = f"{'rank' if len(stand.rows) == 1 else 'ranks'} {ranges(stand.ranks, 8)}"
    return [f"{ranks}: {stand.state}", *wrap(printable(stand.rows[0].doing), LETTERS)]


def _drawn(box: _Box) -> str:
    fill, stroke = COLOURS[box.stand.state]
    lines = "".join(
        f'<text x="{box.x + PAD}" y="{box.y + PAD + LINE * at + 13}" fill="#1d2433" '
        f'font-weight="{400 if at else 600}">{escape(line)}</text>'
        for at, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="6" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>{lines}'
    )


def _arrow(one: _Box, other: _Box) -> str:
    """From who waits to whom it waits for; within a column, around its side."""
    start = one.x + WIDTH
    end = start if one.x == other.x else other.x
    bend = start + GAP // 2  # Halfway between the columns, too.
    way = f"M{start} {one.middle}C{bend} {one.middle} {bend} {other.middle} {end} {other.middle}"
    return (
        f'<path d="{way}" fill="none" stroke="#5a6478" stroke-width="1.8" marker-end="url(#to)"/>'
    )
