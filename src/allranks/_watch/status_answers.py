"""One rank asks, all tell where they stand: the answers in the store.

Most ranks stand where others do. So a rank tells a digest of where it stands, and only the first
with a digest tells the rest.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from allranks._rendezvous.roll_call import record_of
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._watch.diagnosis import Measures, RankStatus
from allranks._watch.event_log import CLOSED, DepartureNote, left_note
from allranks._watch.rank_detail import RankDetail

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import torch.distributed as dist

T = TypeVar("T")

NAMED = 16
"""How many ranks that do not answer are looked up."""

KINDS = 512
"""How many digests are told with the last calls; where more differ, the rest tell a place only."""


@dataclass(frozen=True)
class RankAnswer:
    """What one rank tells.

    Attributes:
        status: where it stands.
        held: the ranks of its host whose processes are stopped or gone, and how.
        detail: more of it, where that is asked for.
    """

    status: RankStatus
    held: dict[int, str]
    detail: RankDetail | None = None


@dataclass(frozen=True)
class Answers:
    """What the ranks have told.

    Attributes:
        statuses: where those stand that have told, by rank; those with one digest share all parts.
        held: the ranks whose processes are stopped or gone, and how.
        details: more of the ranks, where that was asked for.
    """

    statuses: dict[int, RankStatus] = field(default_factory=dict)
    held: dict[int, str] = field(default_factory=dict)
    details: dict[int, RankDetail] = field(default_factory=dict)

    def silent(self, world_size: int) -> list[int]:
        """The ranks that have not told."""
        return [rank for rank in range(world_size) if rank not in self.statuses]


class Inquiry:
    """The answers under one name. Not all stores can append to a key: there each rank has its own.

    A rank needs two store operations, and the first with a digest two more.
    """

    def __init__(self, store: dist.Store, name: str, world_size: int) -> None:
        """Read and write nothing yet.

        Args:
            store: where the answers are.
            name: of the inquiry.
            world_size: how many ranks there are.
        """
        self._store = store
        self._at = f"watch/{name}"
        self._world_size = world_size
        self._appends = bool(store.has_extended_api())  # type: ignore[attr-defined]

    def answer(self, told: RankAnswer) -> None:
        """Tell where a rank stands."""
        rank, seconds = told.status.rank, told.status.seconds
        digest = self._tell_shared(told.status)
        if told.held:
            self._add_line("held", rank, written(told.held))
        if told.detail:
            self._add_line("detail", rank, written(told.detail))
        own = " ".join(f"{measure:.4g}" for measure in told.status.measures)
        self._add_line("told", rank, f"{rank} {seconds:.3f} {digest} {own}")
        if not self._appends:
            self._store.add(f"{self._at}/count", 1)

    def count(self) -> int:
        """How many ranks have told."""
        return (
            len(self._lines("told")) if self._appends else self._store.add(f"{self._at}/count", 0)
        )

    def answers(self) -> Answers:
        """What the ranks have told that can be read."""
        lines = [*filter(None, map(_read_line, self._lines("told")))]
        shared = self._read_shared({line.digest for line in lines})
        statuses = {
            line.rank: line.on(shared[line.digest])
            for line in lines
            if line.digest in shared and 0 <= line.rank < self._world_size
        }
        held: dict[int, str] = {}
        for told in self._read_lines("held", dict[int, str]):
            held |= told
        details = {one.rank: one for one in self._read_lines("detail", RankDetail)}
        return Answers(statuses, held, details)

    def _read_lines(self, what: str, kind: type[T]) -> Iterator[T]:
        """What the ranks have told in lines that can be read."""
        for line in self._lines(what):
            with suppress(MalformedError):
                yield parsed(kind, line)

    def _tell_shared(self, status: RankStatus) -> str:
        """Tell what other ranks may share, unless one has; its digest."""
        shared = replace(status, rank=0, who="", seconds=0.0, members=(), measures=Measures())
        digest = blake2b(repr(shared).encode(errors="replace"), digest_size=8).hexdigest()
        if self._store.add(f"{self._at}/first/{digest}", 1) == 1:
            if self._store.add(f"{self._at}/kinds", 1) > KINDS:
                shared = replace(shared, recent=(), stack=())
            self._store.set(f"{self._at}/shared/{digest}", written(shared))
        return digest

    def _read_shared(self, digests: Collection[str]) -> dict[str, RankStatus]:
        keys = {digest: f"{self._at}/shared/{digest}" for digest in digests}
        if keys and not self._store.check([*keys.values()]):
            keys = {digest: key for digest, key in keys.items() if self._store.check([key])}
        shared: dict[str, RankStatus] = {}
        for digest, text in zip(keys, self._values([*keys.values()]), strict=True):
            with suppress(MalformedError):
                shared[digest] = parsed(RankStatus, text)
        return shared

    def _values(self, keys: list[str]) -> list[bytes]:
        return self._store.multi_get(keys) if self._appends else [*map(self._store.get, keys)]

    def _add_line(self, what: str, rank: int, line: str) -> None:
        if self._appends:
            self._store.append(f"{self._at}/{what}", f"{line}\n")  # type: ignore[attr-defined]
        else:
            self._store.set(f"{self._at}/{what}/{rank}", f"{line}\n")

    def _lines(self, what: str) -> list[str]:
        """What the ranks have told, in any order."""
        keys = [f"{self._at}/{what}"]
        if not self._appends:
            keys = [f"{keys[0]}/{rank}" for rank in range(self._world_size)]
        there = [key for key in keys if self._store.check([key])]
        return b"".join(self._values(there)).decode(errors="replace").splitlines()


class _Line(NamedTuple):
    """What a rank tells beside what it shares with others."""

    rank: int
    seconds: float
    digest: str
    measures: Measures

    def on(self, shared: RankStatus) -> RankStatus:
        """Where this rank stands."""
        who = f"rank {self.rank}"
        return replace(
            shared,
            rank=self.rank,
            who=who,
            seconds=self.seconds,
            measures=self.measures,
        )


def _read_line(line: str) -> _Line | None:
    """What a rank tells; None if it is something else."""
    with suppress(ValueError):
        rank, seconds, digest, *own = line.split()
        rate, memory, stay = map(float, own)
        return _Line(int(rank), float(seconds), digest, Measures(rate, memory, stay))
    return None


def fates(store: dist.Store, silent: Sequence[int]) -> dict[int, str]:
    """What the store knows of ranks that did not tell."""
    return {rank: _fate(store, rank) for rank in silent[:NAMED]}


def with_conditions(
    fates: Mapping[int, str], held: Mapping[int, str], condition: Callable[[int], str]
) -> dict[int, str]:
    """What is known of some ranks, and how the processes fare of those that have not left.

    Args:
        fates: what is known, by rank.
        held: what ranks have told of the processes of their hosts.
        condition: what this rank sees of a process; "" if nothing.
    """
    found = dict(fates)
    for rank, fate in fates.items():
        how = held.get(rank) or condition(rank)
        if how and "has left" not in fate:
            found[rank] += f"; {how}"
    return found


def fates_unasked(
    world_size: int, external_store: str, of_rank_0: str, lost: str
) -> dict[int, str]:
    """What can be said of ranks that nobody can ask, since the store does not answer.

    Args:
        world_size: how many ranks there are.
        external_store: names the store where no rank serves it; else "".
        of_rank_0: what is seen of rank 0's process; "" if nothing.
        lost: how the store was lost; "" where it only does not answer.
    """
    if external_store:
        gone = "is gone" if lost else "does not answer"
        return dict.fromkeys(range(world_size), f"cannot be asked, since {external_store} {gone}")
    fates = dict.fromkeys(range(world_size), "cannot be asked, without the store")
    if lost == CLOSED:
        return {**fates, 0: "has left, and its store with it, and so the others cannot be asked"}
    gone = "is gone, and so the others cannot be asked" if lost else "does not answer"
    return {**fates, 0: f"its store {gone}{f'; {of_rank_0}' if of_rank_0 else ''}"}


def _fate(store: dist.Store, rank: int) -> str:
    with suppress(MalformedError):
        if store.check([left_note(rank)]):
            note = parsed(DepartureNote, store.get(left_note(rank)))
            return f"has left, {max(0.0, time.time() - note.at):.0f} s ago: {note.how}"
    who = record_of(store, rank)
    return f"no answer{f' from {who.host}' if who else ''}"
