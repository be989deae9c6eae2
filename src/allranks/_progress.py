"""Whether this rank's collectives go on, and where it stands if one does not."""

from __future__ import annotations

import time
from typing import NamedTuple

from allranks import _alarm, _flight, _groups, _stacks
from allranks._diagnosis import Call, Standing
from allranks._flight import Flown

RECENT = 50
"""How many of its last collectives a rank tells."""


class Stuck(NamedTuple):
    """A collective that is not complete.

    Attributes:
        what: tells it from others; changes when the rank goes on.
        since: since when, on the monotonic clock.
    """

    what: tuple[object, ...]
    since: float


class Progress:
    """Follows the collectives of this rank, by looks that cost some 20 us."""

    def __init__(self, *, blind: bool) -> None:
        """Begin to follow.

        Args:
            blind: whether torch does not tell what is in flight: then only calls of ours are seen.
        """
        self._blind = blind
        self._seen: dict[tuple[object, ...], float] = {}
        self._counts: dict[int, tuple[int, int]] = {}
        self._changed = time.monotonic()
        self._given_up = 0
        self._left_behind: set[tuple[object, ...]] = set()

    def stuck(self) -> Stuck | None:
        """The oldest collective that is not complete; None if the rank is in none."""
        now = time.monotonic()
        counts = {} if self._blind else _flight.progress()
        if counts != self._counts:
            self._counts, self._changed = counts, now
        open_ = {(g, done + 1): now for g, (made, done) in counts.items() if made > done}
        if _groups.number_given_up() != self._given_up:
            self._given_up = _groups.number_given_up()
            self._left_behind |= open_.keys()
        open_ = {what: since for what, since in open_.items() if what not in self._left_behind}
        self._seen = {what: self._seen.get(what, since) for what, since in open_.items()}
        oldest = min(self._seen.items(), key=lambda item: item[1], default=None)
        ours = _alarm.waiting
        if oldest:
            what, since = oldest
            return Stuck(what, min(since, ours.since) if ours else since)
        return Stuck((ours.since,), ours.since) if ours else None

    def standing(self, rank: int, who: str) -> Standing:
        """Where this rank stands now; takes torch some milliseconds to tell."""
        stuck, ours = self.stuck(), _alarm.waiting
        flown = [] if self._blind else _flight.flown()
        here = self._in_flight(flown)
        lines = _stacks.main_thread()
        at = _stacks.of_the_program(lines)
        shown = [line for line in lines if not line.file.startswith(_stacks.OURS)]
        group = ours.group if ours else here.group if here else ""
        return Standing(
            rank=rank,
            who=who,
            seconds=self._seconds(stuck, here),
            at=str(at or ""),
            call=_call(here) if here else None,
            ours=ours.call if ours else "",
            group=group,
            members=_groups.ranks_of(group),
            recent=tuple(_call(one) for one in flown[-RECENT:]),
            made={one.group: one.number for one in flown},
            stack=tuple(str(line) for line in shown),
        )

    def _in_flight(self, flown: list[Flown]) -> Flown | None:
        """The oldest collective of a group that is not complete."""
        done = {group: done for group, (_, done) in self._counts.items()}
        open_ = [
            one
            for one in flown
            if one.number > done.get(one.group_id, one.number)
            and (one.group_id, one.number) not in self._left_behind
        ]
        return min(open_, key=lambda one: one.at, default=None)

    def _seconds(self, stuck: Stuck | None, here: Flown | None) -> float:
        if here and not _alarm.waiting:
            return max(0.0, time.time() - here.at)
        return time.monotonic() - (stuck.since if stuck else self._changed)


def _call(one: Flown) -> Call:
    return Call(one.group, one.number, one.op, one.data, one.line)
