"""Who has answered the roll call so far, as one rank reads it in the store."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from allranks._rendezvous.record import RankRecord, read
from allranks._system import processes
from allranks._system.printable import printable
from allranks._system.typed_json import written
from allranks._system.words import ranges
from allranks.errors import MissingRanksError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch.distributed as dist

    from allranks._rendezvous.record import PackedError, RollCallResult
    from allranks._system.waiting import Deadline

ARRIVED = "arrived"
"""Under this key of the store: how many ranks have answered."""

T = TypeVar("T")


class Attendance:
    """The records in a store, and what follows from those that are missing."""

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

    def put(self, key: str, value: RankRecord | PackedError | RollCallResult) -> None:
        """Write a value under a key."""
        self._store.set(key, written(value))

    def get(self, kind: type[T], key: str) -> T:
        """Read a value of a type under a key, which is waited for."""
        return read(kind, self._store.get(key), key, self._place)

    def records(self, ranks: Iterable[int]) -> list[RankRecord]:
        """The records of ranks, which must be there or are waited for."""
        keys = [f"record/{rank}/1" for rank in ranks]
        if keys and self._store.has_extended_api():  # type: ignore[attr-defined]  # not in the stubs
            texts = self._store.multi_get(keys)
        else:
            texts = [self._store.get(key) for key in keys]
        pairs = zip(keys, texts, strict=True)
        return [read(RankRecord, text, key, self._place) for key, text in pairs]

    def missing(self, deadline: Deadline) -> MissingRanksError:
        """The error for ranks that have not come, or do not finish, by a deadline."""
        absent = self._absent()
        silent = {} if absent else self._silent()
        told = "; ".join([self._summary(absent, deadline.seconds), *silent.values()])
        why = self._me.doubt or "The missing ranks' own logs, or their launcher's, say why."
        return MissingRanksError(
            f"{told}. Seen by {self._me}, at {self._place}. {why}", missing=absent or silent
        )

    def _silent(self) -> dict[int, str]:
        """Who of those that came does not answer, as far as this rank can know, and why."""
        records = self.records(range(self._me.world_size))
        near = [record for record in records if record.pid_space == self._me.pid_space]
        held = [one for one in near if processes.is_held(one.pid)]
        if held:
            return {one.rank: f"{one}: {processes.condition(one.pid)}" for one in held}
        all_arrived = self._store.add(ARRIVED, 0) == self._me.world_size
        waits_for_0 = all_arrived and self._me.rank
        return {0: f"{records[0]} gives no answer"} if waits_for_0 else {}

    def summary(self, seconds: float) -> str:
        """Who is missing and who is present, after so many seconds, for people."""
        return self._summary(self._absent(), seconds)

    def _summary(self, absent: list[int], seconds: float) -> str:
        size = self._me.world_size
        others = set(range(size)) - {*absent, self._me.rank}
        seen = [(printable(record.host), record.rank) for record in self.records(others)]
        seen = sorted([*seen, (self._me.host, self._me.rank)])
        hosts = "; ".join(
            f"{ranges(rank for _, rank in pairs)} on {host}"
            for host, pairs in groupby(seen, lambda pair: pair[0])
        )
        if not absent:
            return f"all {size} ranks came, but not all finished answering within {seconds:.3g} s"
        return (
            f"{len(absent)} of {size} ranks did not come within {seconds:.3g} s: {ranges(absent)}. "
            f"Present: {hosts}"
        )

    def _absent(self) -> list[int]:
        return [
            rank
            for rank in range(self._me.world_size)
            if rank != self._me.rank and not self._store.check([f"record/{rank}/1"])
        ]
