"""Whether this rank's collectives go on, and where it stands if one does not."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from allranks import _alarm, _flight, _groups, _stacks
from allranks._diagnosis import Call, Standing
from allranks._flight import Exchange, Flown, Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    What: TypeAlias = tuple[object, ...]
    """Tells a call from others: its group, and how many were begun; of torch's, the oldest open."""

RECENT = 50
"""How many of its last collectives a rank tells."""


class Stuck(NamedTuple):
    """A collective that is not complete.

    Attributes:
        what: tells it from others; changes when the rank goes on.
        since: since when, on the monotonic clock.
    """

    what: What
    since: float

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.since


class Progress:
    """Follows the collectives of this rank.

    Each look compares counts of calls, which costs little and can be done at any time. Torch's
    recorder is asked only where a count stands still for long, or where ranks tell each other.
    """

    def __init__(self, *, blind: bool) -> None:
        """Begin to follow.

        Args:
            blind: whether torch does not tell what is in flight: then only calls of ours are seen.
        """
        self._blind = blind
        self._began = time.time()
        self._names: dict[str, str] = {}
        self._counts: object = None
        self._changed = time.monotonic()
        self._since: dict[What, float] = {}
        self._open: dict[What, float] = {}
        self._over: set[What] = set()
        self._given_up = 0
        self._abandoned: set[tuple[str, int]] = set()

    def quiet(self) -> Stuck | None:
        """Where this rank has made no call for the longest, and may be stuck; None if nowhere."""
        self._see(time.monotonic())
        return self._oldest(self._since)

    def stuck(self) -> Stuck | None:
        """The oldest collective that is not complete; None if the rank is in none."""
        now = time.monotonic()
        self._see(now)
        exchanging = _exchanging()
        ours = {what: at for what, at in self._since.items() if what in exchanging}
        return self._oldest({**ours, **self._torchs(now)})

    def _torchs(self, now: float) -> dict[What, float]:
        """Each group's oldest call that is not complete, and since when nothing has gone on."""
        begun = {what: self._since[what] for what in self._since.keys() - _exchanging()}
        oldest = self._oldest_open() if begun else {}
        followed, open_ = {what[:2] for what in self._open}, {}
        for what, at in begun.items():
            if what[0] in oldest:
                call = (*what, oldest[what[0]])
                open_[call] = self._open.get(call, now if what in followed else at)
            elif at < now:  # Of one that has just begun the recorder may not know yet.
                self._over.add(what)
        self._open = open_
        return open_

    def _oldest(self, since: Mapping[What, float]) -> Stuck | None:
        oldest = min(since.items(), key=lambda item: item[1], default=None)
        ours = _alarm.waiting
        if oldest:
            what, at = oldest
            return Stuck(what, min(at, ours.since) if ours else at)
        return Stuck((ours.since,), ours.since) if ours else None

    def _see(self, now: float) -> None:
        """Follow the counts of calls."""
        exchanges = [(one.group_id, one.number, one.over) for one in _flight.last_exchanges()]
        begun = {} if self._blind else _groups.begun_calls()
        if (exchanges, begun) != self._counts:
            self._counts, self._changed = (exchanges, begun), now
        if _groups.number_given_up() != self._given_up:
            self._given_up = _groups.number_given_up()
            self._abandoned |= {(one.group_id, one.number) for one in self._incomplete()}
        last: set[What] = {what for what in begun.items() if what[1]} | _exchanging()
        self._over &= last
        self._since = {what: self._since.get(what, now) for what in last - self._over}

    def _oldest_open(self) -> dict[object, int]:
        """Of each group with calls that are not complete, as torch recorded them, the oldest."""
        of_hosts = {one.group_id for one in _flight.last_exchanges()}
        open_ = [one for one in self._incomplete() if one.group_id not in of_hosts]
        return {one.group: one.number for one in reversed(open_)}

    def _made(self, by_id: Mapping[str, int | None]) -> Counter[str]:
        """How many calls were made on each group, whoever saw them, where that is known."""
        names = {group_id: self._names.get(group_id, "") for group_id in by_id}
        made: Counter[str] = Counter()
        for group_id, count in by_id.items():
            made[names[group_id]] += count or 0
        for unknown in {names[group_id] for group_id, count in by_id.items() if count is None}:
            del made[unknown]
        return made

    def _remembered(self) -> Remembered:
        """The calls of this world, and the counts."""
        if self._blind:
            return Remembered([], {})
        flown, made = _flight.remembered()
        seen: list[Exchange | Flown] = [*_flight.last_exchanges(), *flown]
        self._names |= {one.group_id: one.group for one in seen}
        return Remembered([one for one in flown if one.at >= self._began], made)

    def _incomplete(self) -> list[Flown]:
        """The calls that have not ended, oldest first."""
        return self._not_over(self._remembered().flown)

    def _not_over(self, flown: list[Flown]) -> list[Flown]:
        """Those that have not ended, but for the ones that were given up."""
        left = self._abandoned
        return [one for one in flown if not (one.over or (one.group_id, one.number) in left)]

    def standing(self, rank: int, who: str) -> Standing:
        """Where this rank stands now; takes torch some milliseconds to tell."""
        stuck, ours = self.stuck(), _alarm.waiting
        flown, by_id = self._remembered()
        here = next(iter(self._not_over(flown)), None)
        made = self._made(by_id)
        calls = _numbered(flown, made, _flight.horizon())
        lines = _stacks.program()
        at = _stacks.of_the_program(lines)
        group = ours.group if ours else here.group if here else ""
        return Standing(
            rank=rank,
            who=who,
            seconds=self._seconds(stuck, here),
            at=str(at or ""),
            call=calls[flown.index(here)] if here else None,
            ours=ours.call if ours else "",
            group=group,
            members=ours.ranks if ours and ours.ranks else _groups.ranks_of(group),
            recent=tuple(call for call in calls[-RECENT:] if call.number),
            made=dict(made),
            stack=tuple(str(line) for line in lines),
        )

    def _seconds(self, stuck: Stuck | None, here: Flown | None) -> float:
        if here and not _alarm.waiting:
            return max(0.0, time.time() - here.at)
        return time.monotonic() - (stuck.since if stuck else self._changed)


def _exchanging() -> set[What]:
    """The exchanges between ranks of a host that are not over."""
    return {(one.group_id, one.number) for one in _flight.last_exchanges() if not one.over}


def _numbered(flown: list[Flown], made: Counter[str], since: float) -> list[Call]:
    """Calls with numbers that count what torch sees and what it does not, of each group.

    Args:
        flown: what is remembered of both, oldest first.
        made: how many were made on each group; the calls of others have the number 0.
        since: before which some may be forgotten: such calls have the number 0.
    """
    left = made.copy()
    calls = []
    for one in reversed(flown):
        number = left[one.group] if one.at >= since and one.group in made else 0
        calls.append(Call(one.group, number, one.op, one.data, one.line))
        left[one.group] -= 1
    return calls[::-1]
