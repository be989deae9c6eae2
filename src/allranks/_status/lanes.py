"""When each rank came to the last calls of a group: pure functions.

Clocks of ranks differ. All ranks have the answer of an exchange at the same moment, so that the
exchanges which two ranks remember tell by how much their clocks are apart.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allranks._watch.rank_detail import PastCall
    from allranks._watch.status_report import RankRow

LAST = 60
"""How many calls are shown."""

CAME, ABSENT, UNKNOWN = "came", "absent", "unknown"
"""Of a rank and a call: it came; it has not come to it; it remembers it no more, or its clock
cannot be compared."""


class Cell(NamedTuple):
    """One rank and one call.

    Attributes:
        number: of the call.
        state: whether the rank came.
        late: how many seconds after the first rank.
        what: the call and the program's line.
        over: whether it is over on this rank.
    """

    number: int
    state: str
    late: float = 0.0
    what: str = ""
    over: bool = True


class Lanes(NamedTuple):
    """The last calls of one group.

    Attributes:
        group: the group's name.
        cells: of each rank, one for each number.
    """

    group: str
    cells: dict[int, list[Cell]]


def lanes(rows: Sequence[RankRow]) -> Lanes | None:
    """The last calls of the group on which most ranks wait, or which is used most; None of none."""
    told = {row.rank: row for row in rows if row.detail and row.detail.calls}
    group = _group([row.detail.calls for row in told.values() if row.detail])
    calls = {rank: _of_group(row, group) for rank, row in told.items()}
    calls = {rank: known for rank, known in calls.items() if known}
    if not calls:
        return None
    clocks = _clocks(calls, {rank: row.host for rank, row in told.items()})
    numbers = sorted({number for known in calls.values() for number in known})[-LAST:]
    first = {number: _first(number, calls, clocks) for number in numbers}
    silent = [Cell(number, UNKNOWN) for number in numbers]
    cells = {row.rank: silent for row in rows} | {
        rank: [_cell(number, known, clocks[rank], first[number]) for number in numbers]
        for rank, known in calls.items()
    }
    return Lanes(group, cells)


def _group(calls: Sequence[Sequence[PastCall]]) -> str:
    waiting = Counter(past.call.group for known in calls for past in known if not past.over)
    used = Counter(past.call.group for known in calls for past in known)
    return next((name for name, _ in (waiting or used).most_common(1)), "")


def _of_group(row: RankRow, group: str) -> dict[int, PastCall]:
    calls = row.detail.calls if row.detail else ()
    return {
        past.call.number: past for past in calls if past.call.group == group and past.call.number
    }


def _clocks(
    calls: Mapping[int, Mapping[int, PastCall]], hosts: Mapping[int, str]
) -> dict[int, float | None]:
    """By how many seconds each rank's clock is ahead of one rank's; None where nothing tells."""
    ended = {
        rank: {number: past.ended for number, past in known.items() if past.ended}
        for rank, known in calls.items()
    }
    reference = max(ended, key=lambda rank: len(ended[rank]))
    return {
        rank: _ahead(ended[rank], ended[reference], same=hosts[rank] == hosts[reference])
        for rank in calls
    }


def _ahead(mine: Mapping[int, float], theirs: Mapping[int, float], *, same: bool) -> float | None:
    common = [mine[number] - theirs[number] for number in mine.keys() & theirs.keys()]
    if common:
        return median(common)
    return 0.0 if same else None  # Ranks of a host share a clock.


def _first(
    number: int,
    calls: Mapping[int, Mapping[int, PastCall]],
    clocks: Mapping[int, float | None],
) -> float:
    """When the first rank came to a call, by the clock of the reference."""
    came = [
        known[number].at - ahead
        for rank, known in calls.items()
        if number in known and (ahead := clocks[rank]) is not None
    ]
    return min(came, default=0.0)


def _cell(number: int, known: Mapping[int, PastCall], ahead: float | None, first: float) -> Cell:
    past = known.get(number)
    if past is None:
        return Cell(number, ABSENT if number > max(known) else UNKNOWN)
    what = f"{past.call}, {past.call.line}".removesuffix(", ")
    if ahead is None:
        return Cell(number, UNKNOWN, 0.0, what, past.over)
    return Cell(number, CAME, max(0.0, past.at - ahead - first), what, past.over)
