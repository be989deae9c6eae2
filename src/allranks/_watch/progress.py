"""Whether this rank's collectives go on, and where it stands if one does not."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

from allranks._system import processes, stacks
from allranks._watch import failures, flight_recorder, torch_groups, waits
from allranks._watch.diagnosis import Measures, RankStatus, ReportedCollective
from allranks._watch.flight_recorder import FlightRecord, HostExchange, RecordedCollective
from allranks._watch.rank_detail import PastCall, RankDetail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    CallKey: TypeAlias = tuple[object, ...]
    """Tells a call from others: its group, and how many were begun; of torch's, the oldest open."""

EVERY, LOOKS = 0.9, 10
"""Seconds between two counts of all calls, at least, and how many are kept: for the rate."""

QUIET = 1.0
"""Seconds without a new call after which a program may have stopped."""

RECENT = 50
"""How many of its last collectives a rank tells."""


class StuckCollective(NamedTuple):
    """A collective that is not complete.

    Attributes:
        what: tells it from others; changes when the rank goes on.
        since: since when, on the monotonic clock.
    """

    what: CallKey
    since: float

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.since


class CollectiveProgress:
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
        self._totals = deque([(self._changed, 0)], maxlen=LOOKS)
        self._since: dict[CallKey, float] = {}
        self._open: dict[CallKey, float] = {}
        self._over: set[CallKey] = set()
        self._number_unusable = 0
        self._abandoned: set[tuple[str, int]] = set()

    def candidate(self) -> StuckCollective | None:
        """Where this rank has made no call for the longest, and may be stuck; None if nowhere."""
        self._see(time.monotonic())
        return self._oldest(self._since)

    def stuck(self) -> StuckCollective | None:
        """The oldest collective that is not complete; None if the rank is in none."""
        now = time.monotonic()
        self._see(now)
        exchanging = _exchanging()
        ours = {what: at for what, at in self._since.items() if what in exchanging}
        torchs = {what: at for what, at in self._since.items() if what not in exchanging}
        return self._oldest({**ours, **self._open_calls(torchs, now)})

    def _open_calls(self, begun: Mapping[CallKey, float], now: float) -> dict[CallKey, float]:
        """Each group's oldest call that is not complete, and since when nothing has gone on."""
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

    def _oldest(self, since: Mapping[CallKey, float]) -> StuckCollective | None:
        oldest = min(since.items(), key=lambda item: item[1], default=None)
        ours = failures.waiting
        if oldest:
            what, at = oldest
            return StuckCollective(what, min(at, ours.since) if ours else at)
        return StuckCollective((ours.since,), ours.since) if ours else None

    def _see(self, now: float) -> None:
        """Follow the counts of calls."""
        exchanges = [
            (one.group_id, one.number, one.over) for one in flight_recorder.last_exchanges()
        ]
        begun = {} if self._blind else torch_groups.begun_calls()
        if (exchanges, begun) != self._counts:
            self._counts, self._changed = (exchanges, begun), now
        if now - self._totals[-1][0] >= EVERY:
            self._totals.append((now, _total(exchanges, begun)))
        if torch_groups.number_unusable() != self._number_unusable:
            self._number_unusable = torch_groups.number_unusable()
            self._abandoned |= {(one.group_id, one.number) for one in self._incomplete()}
        last: set[CallKey] = {what for what in begun.items() if what[1]} | _exchanging()
        self._over &= last
        self._since = {what: self._since.get(what, now) for what in last - self._over}

    def _oldest_open(self) -> dict[object, int]:
        """Of each group with calls that are not complete, as torch recorded them, the oldest."""
        of_hosts = {one.group_id for one in flight_recorder.last_exchanges()}
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

    def _remembered(self) -> FlightRecord:
        """The calls of this world, and the counts."""
        if self._blind:
            return FlightRecord([], {})
        collectives, made = flight_recorder.remembered()
        seen: list[HostExchange | RecordedCollective] = [
            *flight_recorder.last_exchanges(),
            *collectives,
        ]
        self._names |= {one.group_id: one.group for one in seen}
        return FlightRecord([one for one in collectives if one.at >= self._began], made)

    def _incomplete(self) -> list[RecordedCollective]:
        """The calls that have not ended, oldest first."""
        return self._not_over(self._remembered().collectives)

    def _not_over(self, collectives: list[RecordedCollective]) -> list[RecordedCollective]:
        """Those that have not ended, but for the ones that were given up."""
        left = self._abandoned
        return [one for one in collectives if not (one.over or (one.group_id, one.number) in left)]

    def status(self, rank: int, who: str, *, disturb: bool = True) -> RankStatus:
        """Where this rank stands now; takes torch some milliseconds to tell.

        Args:
            rank: the rank.
            who: names it.
            disturb: whether torch's recorder is read though the program goes on.
        """
        ours, read = failures.waiting, disturb or not self._goes_on()
        stuck = self.stuck() if read else None
        collectives, by_id = self._remembered() if read else FlightRecord([], {})
        here = next(iter(self._not_over(collectives)), None)
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
            measures=Measures(
                _rate(self._totals), processes.resident() / 2**20, waits.mean_of("WORLD")
            ),
        )

    def detail(self, rank: int, told: int) -> RankDetail:
        """What this rank has done and does, call by call and thread by thread.

        Args:
            rank: the rank.
            told: how many of its last calls it tells.
        """
        seen, by_id = self._remembered()
        numbered = _numbered(seen, self._made(by_id), flight_recorder.horizon())
        calls = [
            PastCall(call, one.at, one.ended, one.over)
            for one, call in zip(seen, numbered, strict=True)
        ]
        here = next(iter(self._not_over(seen)), None)
        group = failures.waiting.group if failures.waiting else here.group if here else "WORLD"
        members = () if group == "WORLD" else torch_groups.ranks_of(group)
        return RankDetail(rank, tuple(calls[-told:]), members, stacks.all_threads())

    def _goes_on(self) -> bool:
        """Whether this rank has made calls lately: its groups may be making their first ones."""
        now = time.monotonic()
        self._see(now)
        return now - self._changed < QUIET

    def _seconds(self, stuck: StuckCollective | None, here: RecordedCollective | None) -> float:
        if here and not failures.waiting:
            return max(0.0, time.time() - here.at)
        return time.monotonic() - (stuck.since if stuck else self._changed)


def _total(exchanges: Sequence[tuple[object, int, bool]], begun: Mapping[str, int]) -> int:
    """How many calls were made in all: torch counts those that gloo or NCCL make."""
    apart = {name: number for name, number, _ in exchanges}
    return sum(apart.values()) + sum(begun.values())


def _rate(totals: Sequence[tuple[float, int]]) -> float:
    """Collectives in a second, over the looks: when each was, and the calls by then."""
    (since, before), (at, after) = totals[0], totals[-1]
    return (after - before) / (at - since) if at > since else 0.0


def _exchanging() -> set[CallKey]:
    """The exchanges between ranks of a host that are not over."""
    return {(one.group_id, one.number) for one in flight_recorder.last_exchanges() if not one.over}


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
