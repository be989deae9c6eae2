"""Which ranks stand where, and which of them wait for which: pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from allranks._status.alike import alike
from allranks._watch.status_report import WAITING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._watch.diagnosis import ReportedCollective
    from allranks._watch.status_report import RankRow


class Stand(NamedTuple):
    """Ranks that stand alike.

    Attributes:
        rows: theirs.
        waits_for: the places of those for which they wait, in the list of all.
    """

    rows: tuple[RankRow, ...]
    waits_for: tuple[int, ...] = ()

    @property
    def state(self) -> str:
        """What they do, in one word."""
        return self.rows[0].state

    @property
    def ranks(self) -> list[int]:
        """Their ranks."""
        return [row.rank for row in self.rows]


def stands(rows: Sequence[RankRow]) -> list[Stand]:
    """The ranks that stand alike, and for which others each waits."""
    places = alike(rows)
    return [
        Stand(tuple(some), tuple(at for at, other in enumerate(places) if _waits(some[0], other)))
        for some in places
    ]


def _waits(row: RankRow, others: Sequence[RankRow]) -> bool:
    """Whether a rank waits for one of others, who stand alike."""
    if row.state != WAITING or row in others:
        return False
    members = row.detail.members if row.detail else ()
    if members and not {*members} & {other.rank for other in others}:
        return False
    mine, theirs = _open_call(row), _open_call(others[0])
    if mine and theirs and mine.group == theirs.group:
        return theirs.number < mine.number  # Who is in a later call has done its part in this.
    return True


def _open_call(row: RankRow) -> ReportedCollective | None:
    calls = row.detail.calls if row.detail and row.state == WAITING else ()
    return next((past.call for past in calls if not past.over), None)
