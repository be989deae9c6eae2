"""Who has answered the roll call so far, as one rank reads it in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._rendezvous.batches import BATCHES, batch, rows_of
from allranks._rendezvous.verdicts import duplicate
from allranks._system.printable import printable
from allranks._system.words import by_host, ranges
from allranks.errors import MissingRanksError, RendezvousError, WorldMismatchError, WrongJobError

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord


class Attendance:
    """The records in a store, each of which is read once, and what follows from them.

    Attributes:
        records: by rank, the first record of each.
        batch_of: by rank, the number of the batch in which its record stands.
        batches_of: by the key of each host, the numbers of the batches with its ranks' records.
    """

    def __init__(self, store: dist.Store, me: RankRecord, place: str) -> None:
        """Read nothing yet.

        Args:
            store: the store that all ranks reach.
            me: this rank's record.
            place: names the store in errors.
        """
        self._store = store
        self._me = me
        self._place = place
        self._numbered = 0
        self._unread: list[int] = []
        self._objection: RendezvousError | None = None
        self.records: dict[int, RankRecord] = {}
        self.batch_of: dict[int, int] = {}
        self.batches_of: dict[str, set[int]] = {}

    def read_on(self) -> None:
        """Read the batches that have come since the last time."""
        begun = self._store.add(BATCHES, 0)
        self._unread += range(self._numbered + 1, begun + 1)
        self._numbered = max(begun, self._numbered)
        there = self._those_that_are_there()
        self._unread = [number for number in self._unread if number not in there]
        for number, brought in rows_of(self._store, there, self._place).items():
            for row in brought.rows:
                self._enter(number, row)

    def _those_that_are_there(self) -> list[int]:
        """A rank may have died, or be about to write, between its batch's number and its batch."""
        keys = [batch(number) for number in self._unread]
        if not keys or self._store.check(keys):
            return list(self._unread)
        pairs = zip(self._unread, keys, strict=True)
        return [number for number, key in pairs if self._store.check([key])]

    def _enter(self, number: int, row: RankRecord) -> None:
        first = self.records.setdefault(row.rank, row)
        self.batch_of.setdefault(row.rank, number)
        self.batches_of.setdefault(row.host_key, set()).add(number)
        self._objection = self._objection or self._objection_to(row, first)

    def _objection_to(self, row: RankRecord, first: RankRecord) -> RendezvousError | None:
        """Why a record cannot be one of this roll call, beside the first one of its rank."""
        if row.world_size != self._me.world_size or row.rank >= self._me.world_size:
            return mismatch(row, self._me)
        if row.job != self._me.job:
            return WrongJobError(f"{row} is of job {row.job!r}, and {self._me} of {self._me.job!r}")
        if not row.is_of_process_of(first):
            return duplicate(first, row)
        return cannot_take_part(row) if row.error else None

    @property
    def objection(self) -> RendezvousError | None:
        """Why the roll call cannot succeed, by what was read so far."""
        return self._objection

    @property
    def complete(self) -> bool:
        """Whether every rank's record was read."""
        return len(self.records) == self._me.world_size

    def by_rank(self) -> list[RankRecord]:
        """All records that were read, in the order of the ranks."""
        return [self.records[rank] for rank in sorted(self.records)]

    def missing(self, seconds: float) -> MissingRanksError:
        """The error for ranks that have not come within so many seconds."""
        why = self._me.doubt or "The missing ranks' own logs, or their launcher's, say why."
        return MissingRanksError(
            f"{self.summary(seconds)}. Seen by {self._me}, at {self._place}. {why}",
            missing=self._absent(),
        )

    def summary(self, seconds: float) -> str:
        """Who is missing and who is present, after so many seconds, for people."""
        absent = self._absent()
        return (
            f"{len(absent)} of {self._me.world_size} ranks did not come within {seconds:.3g} s: "
            f"{ranges(absent)}. Present: {self._hosts()}"
        )

    def _hosts(self) -> str:
        present = {**self.records, self._me.rank: self._me}
        return by_host((printable(record.host), rank) for rank, record in present.items())

    def _absent(self) -> list[int]:
        ranks = range(self._me.world_size)
        return [rank for rank in ranks if rank != self._me.rank and rank not in self.records]


def mismatch(one: RankRecord, first: RankRecord) -> WorldMismatchError:
    """The error for two ranks that believe in worlds of different sizes."""
    return WorldMismatchError(
        f"{one} believes that the world has {one.world_size} ranks, {first} says "
        f"{first.world_size}. Start all of them with one world size."
    )


def cannot_take_part(one: RankRecord) -> RendezvousError:
    """The error for a rank that says so itself."""
    return RendezvousError(f"{one} cannot take part: {one.error}")
