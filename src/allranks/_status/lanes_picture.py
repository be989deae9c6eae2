"""The last calls of a group, drawn: a lane for each rank, with the lateness as colour."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from allranks._status.lanes import ABSENT, CAME
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._status.lanes import Cell, Lanes

SHOWN = 64
"""How many lanes are drawn; first those of ranks that have not come, and that come latest."""

STEPS = (
    (0.001, "#e8eef7", "within 1 ms of the first rank"),
    (0.01, "#bcd4f0", "1 to 10 ms"),
    (0.1, "#f4c27a", "10 to 100 ms"),
    (1.0, "#e07b39", "0.1 to 1 s"),
    (float("inf"), "#9f2d12", "later"),
)
"""Up to how many seconds late, in which colour, and how that is said."""

MISSING, NOT_KNOWN, DARK, FAINT = "url(#missing)", "#ffffff", "#1d2433", "#d5dbe5"

LEFT, TOP, HEIGHT, WIDTH = 90, 26, 22, 960
"""Of the picture: before the lanes, above them, of a lane, and of all calls together (pixels)."""

HATCHED = (
    '<defs><pattern id="missing" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/>'
    '<rect width="2.5" height="6" fill="#b91c1c"/></pattern></defs>'
)


def lanes_picture(found: Lanes) -> str:
    """As SVG."""
    ranks = sorted(sorted(found.cells, key=lambda rank: -_weight(found.cells[rank]))[:SHOWN])
    cells = [found.cells[rank] for rank in ranks]
    step = WIDTH / len(cells[0])
    height = TOP + HEIGHT * len(ranks) + 70
    body = "".join(
        _lane(rank, lane, TOP + HEIGHT * at, step)
        for at, (rank, lane) in enumerate(zip(ranks, cells, strict=True))
    )
    more = len(found.cells) - len(ranks)
    note = f"<p>{more} more ranks, which came no later: see rank-N.json.</p>" if more else ""
    return (
        f'<svg viewBox="0 0 {LEFT + WIDTH + 10} {height}" width="{LEFT + WIDTH + 10}" role="img" '
        f'aria-label="who came late">{HATCHED}{_numbers(cells[0], step)}{body}'
        f"{_legend(TOP + HEIGHT * len(ranks) + 22)}</svg>{note}"
    )


def _weight(lane: Sequence[Cell]) -> float:
    """How much a lane matters."""
    return sum(1e6 * (cell.state == ABSENT) + cell.late for cell in lane)


def _numbers(lane: Sequence[Cell], step: float) -> str:
    every = max(1, round(80 / step))
    return "".join(
        f'<text x="{LEFT + step * at:.1f}" y="{TOP - 9}" fill="#5a6478">#{cell.number}</text>'
        for at, cell in enumerate(lane)
        if at % every == 0
    )


def _lane(rank: int, lane: Sequence[Cell], y: int, step: float) -> str:
    name = f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end" fill="{DARK}">rank {rank}</text>'
    cells = (_cell(rank, cell, LEFT + step * at, y, step) for at, cell in enumerate(lane))
    return name + "".join(cells)


def _cell(rank: int, cell: Cell, x: float, y: int, step: float) -> str:
    told = printable(f"rank {rank}, #{cell.number}: {_said(cell)}")
    edge = DARK if cell.state == CAME and not cell.over else FAINT
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{max(1.0, step - 2):.1f}" height="{HEIGHT - 3}" '
        f'fill="{_colour(cell)}" stroke="{edge}"><title>{escape(told)}</title></rect>'
    )


def _said(cell: Cell) -> str:
    if cell.state == ABSENT:
        return "it has not come"
    if cell.state != CAME:
        return f"{cell.what or 'not remembered'}; when it came is not known"
    waits = "" if cell.over else "; it is still in it"
    return f"{cell.what}; {1e3 * cell.late:.1f} ms after the first rank{waits}"


def _colour(cell: Cell) -> str:
    if cell.state == ABSENT:
        return MISSING
    if cell.state != CAME:
        return NOT_KNOWN
    return next(colour for most, colour, _ in STEPS if cell.late < most)


def _legend(y: int) -> str:
    """What the colours mean."""
    keys = [(colour, FAINT, said) for _, colour, said in STEPS]
    keys += [(MISSING, FAINT, "has not come"), (NOT_KNOWN, DARK, "still in it")]
    keys += [(NOT_KNOWN, FAINT, "not known")]
    parts, x = [], LEFT
    for fill, edge, said in keys:
        box = f'x="{x}" y="{y}" width="14" height="14" fill="{fill}" stroke="{edge}"'
        parts.append(f'<rect {box}/><text x="{x + 20}" y="{y + 12}" fill="{DARK}">{said}</text>')
        x += 34 + 7 * len(said)
    return "".join(parts)
