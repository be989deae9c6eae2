"""From what all ranks tell of themselves to one verdict: pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.words import ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

ALL_WAIT = "All are in it"
"""What is concluded where no rank is missing from a call."""

STACKS = 3
"""How many of the ranks that hold the others up are shown with their stack."""

DEEP = 6
"""How many lines of a stack it shows."""

LISTED = 16
"""How many places, and how many runs of ranks in one, are listed; the rest are counted."""


@dataclass(frozen=True)
class ReportedCollective:
    """A collective that a rank has made.

    Attributes:
        group: the group's name, the same on all its ranks.
        number: its sequence number in the group; 0 where that is not known.
        op: its name.
        data: dtypes and shapes.
        line: the program's line, or "".
    """

    group: str
    number: int
    op: str
    data: str
    line: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.op, self.data) if part)


class Measures(NamedTuple):
    """What is measured of a rank.

    Attributes:
        rate: collectives in a second, lately.
        memory: MiB of its process.
        stay: seconds in an exchange on WORLD, lately, on average: a rank that is late stays less.
    """

    rate: float = 0.0
    memory: float = 0.0
    stay: float = 0.0


@dataclass(frozen=True)
class RankStatus:
    """Where one rank stands.

    Attributes:
        rank: the rank.
        who: names it, with its process and host.
        seconds: how long it has been in the collective, or in none.
        line: the line of its program, or "".
        call: the collective that it waits in, as torch sees it; None in none.
        ours: the call of ours that it waits in, or "".
        group: the group of the call, or "".
        members: the global ranks of that group.
        recent: the last collectives that it made, of all groups, oldest first.
        made: how many collectives it has made, by the group's name.
        stack: where its main thread stands, innermost first.
        measures: what is measured of it.
    """

    rank: int
    who: str
    seconds: float
    line: str
    call: ReportedCollective | None = None
    ours: str = ""
    group: str = ""
    members: tuple[int, ...] = ()
    recent: tuple[ReportedCollective, ...] = ()
    made: dict[str, int] = field(default_factory=dict)
    stack: tuple[str, ...] = ()
    measures: Measures = field(default_factory=Measures)

    @property
    def waits(self) -> bool:
        """Whether it is in a collective."""
        return bool(self.call or self.ours)

    @property
    def number(self) -> int:
        """The number of the collective that it waits in; 0 where that is not known."""
        return self.call.number if self.call else 0


def on_group(status: RankStatus, group: str) -> RankStatus:
    """Where a rank stands, and of its last calls only those on one group."""
    recent = tuple(call for call in status.recent if call.group == group)
    made = {group: status.made[group]} if group in status.made else {}
    return replace(status, recent=recent, made=made)


def verdict(
    seen_by: RankStatus, statuses: Mapping[int, RankStatus], fates: Mapping[int, str]
) -> str:
    """Why a collective does not complete, in sentences.

    Args:
        seen_by: the rank whose call has waited long.
        statuses: of the ranks that answered, by rank.
        fates: of the others, what is known of them, by rank.
    """
    members = _concerned(seen_by, statuses) or tuple(sorted({*statuses, *fates}))
    here = {rank: statuses[rank] for rank in members if rank in statuses}
    here.setdefault(seen_by.rank, seen_by)
    told = [_head(seen_by), *_places(seen_by, here), *_fates(members, here, fates)]
    return " ".join([*told, *_conclusions(seen_by, members, here), *_stacks(here)])


def _concerned(seen_by: RankStatus, statuses: Mapping[int, RankStatus]) -> tuple[int, ...]:
    """The ranks of its call, and of all calls in which these wait for others in turn."""
    found: set[int] = set()
    fresh = set(seen_by.members)
    while fresh:
        found |= fresh
        waiting = [statuses[rank] for rank in fresh if rank in statuses and statuses[rank].waits]
        fresh = {rank for status in waiting for rank in status.members} - found
    return tuple(sorted(found))


def _head(seen_by: RankStatus) -> str:
    number = f" #{seen_by.number}" if seen_by.number else ""
    name = seen_by.ours or (seen_by.call.op if seen_by.call else "a collective")
    return f"{name}{number} on {seen_by.group or 'WORLD'} has waited {seen_by.seconds:.0f} s."


def _places(seen_by: RankStatus, here: Mapping[int, RankStatus]) -> Iterable[str]:
    by_place: dict[str, list[int]] = {}
    for rank, status in sorted(here.items()):
        by_place.setdefault(_place(seen_by, status), []).append(rank)
    for place, ranks in islice(by_place.items(), LISTED):
        longest = max(here[rank].seconds for rank in ranks)
        yield f"{_named(ranks)}: {place}{_since(here[ranks[0]], longest)}."
    if more := _more(by_place):
        yield f"{more} elsewhere."


def _since(status: RankStatus, seconds: float) -> str:
    return "" if status.waits else f", for {seconds:.0f} s"


def _place(seen_by: RankStatus, status: RankStatus) -> str:
    at = f", {status.line}" if status.line else ""
    if not status.waits:
        return f"in no collective, at {status.line}" if status.line else "in no collective"
    name = status.ours or str(status.call)
    same = (status.group, status.number) == (seen_by.group, seen_by.number)
    number = f" #{status.number}" if status.number else ""
    return f"in {name}{'' if same else f'{number} on {status.group}'}{at}"


def _fates(
    members: Iterable[int], here: Mapping[int, RankStatus], fates: Mapping[int, str]
) -> Iterable[str]:
    by_fate: dict[str, list[int]] = {}
    for rank in members:
        if rank not in here:
            by_fate.setdefault(fates.get(rank, "no answer"), []).append(rank)
    for fate, ranks in by_fate.items():  # Of a few ranks more is known than of the rest.
        yield f"{_named(ranks)}: {fate}."


def _conclusions(
    seen_by: RankStatus, members: Collection[int], here: Mapping[int, RankStatus]
) -> Iterable[str]:
    """Say that calls differ only where that cannot come from our own messages."""
    waiting = [status for status in here.values() if status.waits]
    if len({status.group for status in waiting}) > 1:
        if len(waiting) < len(members):
            return  # They wait for those that are in no call, or say nothing.
        yield (
            "They wait in different groups: every rank must make its calls on these groups in the "
            "same order."
        )
        return
    counts = {status.made.get(seen_by.group, 0) for status in here.values()}
    calls = {(s.number, s.call.op, s.call.data) for s in waiting if s.call}
    differs = _first_difference(seen_by.group, here)
    if differs and (len(counts) > 1 or len(calls) > 1):
        yield differs
    elif _two_of_one_number(calls):
        yield "They are in different collectives."
    elif (
        len(waiting) == len(members) > 1
        and len(counts) == 1
        and len(calls or {status.ours for status in waiting}) == 1
    ):
        yield f"{ALL_WAIT}: the network between them is slow or cut, or a rank is very busy."


def _two_of_one_number(calls: Collection[tuple[int, str, str]]) -> bool:
    """Whether ranks made different calls with the same sequence number.

    A collective may end on some ranks while others wait in it: these are calls ahead, rightly.
    """
    numbers = [number for number, _, _ in calls if number]
    return len(numbers) > len(set(numbers))


def _first_difference(group: str, here: Mapping[int, RankStatus]) -> str:
    """Where the calls of the ranks on a group begin to differ, as far as all remember them.

    Ranks may rightly make one call on different lines. After a skipped call they go on differing:
    lines that did so for a while, and are the same again, say nothing.
    """
    alike = _alike(group, here)
    known = [set(calls) for calls, _ in alike]
    numbers = sorted(set.intersection(*known)) if known else []
    by_calls = next((n for n in numbers if _differ(alike, n, str)), 0)
    lines = [*takewhile(lambda n: _differ(alike, n, _with_line), reversed(numbers))]
    on_lines = f"their lines differ from #{lines[-1]}: {_each(alike, lines[-1])}" if lines else ""
    if by_calls:
        told = f"Their calls first differ at #{by_calls}: {_each(alike, by_calls)}"
        return f"{told}; {on_lines}." if lines and lines[-1] < by_calls else f"{told}."
    return f"Their calls are alike, but {on_lines}." if lines else ""


class _Alike(NamedTuple):
    """The calls on a group, by number, of ranks that tell the same of them."""

    calls: dict[int, ReportedCollective]
    ranks: list[int]


def _alike(group: str, here: Mapping[int, RankStatus]) -> list[_Alike]:
    """Those with one digest share a tuple of calls: so nothing is done here for every rank."""
    alike: dict[int, _Alike] = {}
    for rank, status in sorted(here.items()):
        if id(status.recent) not in alike:
            calls = {call.number: call for call in status.recent if call.group == group}
            alike[id(status.recent)] = _Alike(calls, [])
        alike[id(status.recent)].ranks.append(rank)
    return [*alike.values()]


def _differ(
    alike: Iterable[_Alike], number: int, told: Callable[[ReportedCollective], str]
) -> bool:
    return len({told(one.calls[number]) for one in alike}) > 1


def _each(alike: Iterable[_Alike], number: int) -> str:
    """Which ranks made which call of this number."""
    by_call: dict[str, list[int]] = {}
    for one in alike:
        by_call.setdefault(_with_line(one.calls[number]), []).extend(one.ranks)
    each = islice(sorted(by_call.items(), key=lambda item: min(item[1])), LISTED)
    listed = [f"{_named(ranks).lower()}: {what}" for what, ranks in each]
    return "; ".join([*listed, *([f"{more}: others"] if (more := _more(by_call)) else [])])


def _more(by_place: Mapping[str, Sequence[int]]) -> str:
    """How many ranks are in places that are not listed."""
    many = sum(map(len, islice(by_place.values(), LISTED, None)))
    return f"{many} more ranks" if many else ""


def _with_line(call: ReportedCollective) -> str:
    return f"{call} at {call.line}" if call.line else str(call)


def _stacks(here: Mapping[int, RankStatus]) -> Iterable[str]:
    """Where those stand that hold the others up."""
    for rank in concerned(here):
        yield f"Rank {rank} stands at {' < '.join(here[rank].stack[:DEEP])}."


def concerned(statuses: Mapping[int, RankStatus]) -> tuple[int, ...]:
    """Those that hold the others up: they are in no collective; of many, the first."""
    absent = (rank for rank, status in statuses.items() if not status.waits and status.stack)
    return tuple(islice(absent, STACKS))


def _named(ranks: Iterable[int]) -> str:
    """Ranks as a sentence begins with them."""
    many = list(ranks)
    return f"{'Rank' if len(many) == 1 else 'Ranks'} {ranges(many, LISTED)}"
