"""Whether this rank's collectives go on, and where it stands if one does not."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from allranks._system import stacks
from allranks._watch import failures, flight_recorder, torch_groups
from allranks._watch.diagnosis import RankStatus, ReportedCollective
from allranks._watch.flight_recorder import FlightRecord, HostExchange, RecordedCollective

if TYPE_CHECKING:
    from collections.abc import Mapping

RECENT = 50
"""How many of its last collectives a rank tells."""


class StuckCollective(NamedTuple):
    """A collective that is not complete.

    Attributes:
        what: tells it from others; changes when the rank goes on.
        since: since when, on the monotonic clock.
    """

    what: tuple[object, ...]
    since: float

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.since


class CollectiveProgress:
    """Follows the collectives of this rank, by looks that cost some 20 us."""

    def __init__(self, *, blind: bool) -> None:
        """Begin to follow.

        Args:
            blind: whether torch does not tell what is in flight: then only calls of ours are seen.
        """
        self._blind = blind
        self._began = time.time()
        self._counts: dict[str, tuple[int, int]] = {}
        self._names: dict[str, str] = {}
        self._changed = time.monotonic()
        self._seen: dict[tuple[object, ...], float] = {}
        self._idle: set[tuple[object, ...]] = set()
        self._number_unusable = 0
        self._abandoned: set[tuple[str, int]] = set()

    def stuck(self) -> StuckCollective | None:
        """The oldest collective that is not complete; None if the rank is in none."""
        self._see(time.monotonic())
        oldest = min(self._seen.items(), key=lambda item: item[1], default=None)
        ours = failures.waiting
        if oldest:
            what, since = oldest
            return StuckCollective(what, min(since, ours.since) if ours else since)
        return StuckCollective((ours.since,), ours.since) if ours else None

    def _see(self, now: float) -> None:
        """Follow the counts of calls; look closer at what does not change from look to look."""
        counts = {} if self._blind else flight_recorder.progress()
        if counts != self._counts:
            self._counts, self._changed = counts, now
            if counts.keys() - self._names.keys():
                self._learn_names()
        if torch_groups.number_unusable() != self._number_unusable:
            self._number_unusable = torch_groups.number_unusable()
            self._abandoned |= {(one.group_id, one.number) for one in self._open(self._recorded())}
        behind = {(group, *both) for group, both in counts.items() if both[0] > both[1]}
        self._idle &= behind
        self._seen = {what: self._seen.get(what, now) for what in behind - self._idle}
        if any(since < now for since in self._seen.values()):
            open_ = {one.group_id for one in self._open(self._recorded())}
            self._idle |= {what for what in self._seen if what[0] not in open_}
            self._seen = {what: at for what, at in self._seen.items() if what[0] in open_}

    def _learn_names(self) -> None:
        """Learn the names of the groups before their calls are forgotten."""
        seen: list[HostExchange | RecordedCollective] = [
            *flight_recorder.last_exchanges(),
            *self._recorded(),
        ]
        told = {one.group_id: one.group for one in seen}
        self._names |= dict.fromkeys(self._counts, "") | self._names | told

    def _made(self, by_id: Mapping[str, int | None]) -> Counter[str]:
        """How many calls were made on each group, whoever saw them, where that is known."""
        names = {group_id: self._names.get(group_id, "") for group_id in by_id}
        made: Counter[str] = Counter()
        for group_id, count in by_id.items():
            made[names[group_id]] += count or 0
        for unknown in {names[group_id] for group_id, count in by_id.items() if count is None}:
            del made[unknown]
        return made

    def _remembered(self) -> FlightRecord:
        """The calls of this world, and the counts."""
        if self._blind:
            return FlightRecord([], {})
        collectives, made = flight_recorder.remembered()
        return FlightRecord([one for one in collectives if one.at >= self._began], made)

    def _recorded(self) -> list[RecordedCollective]:
        return self._remembered().collectives

    def _open(self, collectives: list[RecordedCollective]) -> list[RecordedCollective]:
        """Those that have not ended, but for the ones that were given up."""
        left = self._abandoned
        return [one for one in collectives if not (one.over or (one.group_id, one.number) in left)]

    def status(self, rank: int, who: str) -> RankStatus:
        """Where this rank stands now; takes torch some milliseconds to tell."""
        stuck, ours = self.stuck(), failures.waiting
        collectives, by_id = self._remembered()
        here = next(iter(self._open(collectives)), None)
        made = self._made(by_id)
        calls = _numbered(collectives, made, flight_recorder.horizon())
        lines = stacks.program()
        line = stacks.of_the_program(lines)
        group = ours.group if ours else here.group if here else ""
        return RankStatus(
            rank=rank,
            who=who,
            seconds=self._seconds(stuck, here),
            line=str(line or ""),
            call=calls[collectives.index(here)] if here else None,
            ours=ours.call if ours else "",
            group=group,
            members=ours.ranks if ours and ours.ranks else torch_groups.ranks_of(group),
            recent=tuple(call for call in calls[-RECENT:] if call.number),
            made=dict(made),
            stack=tuple(map(str, lines)),
        )

    def _seconds(self, stuck: StuckCollective | None, here: RecordedCollective | None) -> float:
        if here and not failures.waiting:
            return max(0.0, time.time() - here.at)
        return time.monotonic() - (stuck.since if stuck else self._changed)


def _numbered(
    collectives: list[RecordedCollective], made: Counter[str], since: float
) -> list[ReportedCollective]:
    """Number the calls of each group, counting those that torch records and our own together.

    Args:
        collectives: what is remembered of both, oldest first.
        made: how many were made on each group; the calls of others have the number 0.
        since: before which some may be forgotten: such calls have the number 0.
    """
    left = made.copy()
    calls = []
    for one in reversed(collectives):
        number = left[one.group] if one.at >= since and one.group in made else 0
        calls.append(ReportedCollective(one.group, number, one.op, one.data, one.line))
        left[one.group] -= 1
    return calls[::-1]
