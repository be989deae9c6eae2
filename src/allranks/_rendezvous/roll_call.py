"""The roll call: every rank of this job, and nobody else, answers before any collective.

One rank of each host answers for all that have come to it: it brings their records into the store
in one batch, and reads what rank 0 makes of them. How many store operations that takes depends
neither on the world nor on the host. All that travels is JSON. The identity keeps out accidents
(another job, a duplicate, a wrong world size), not attackers: torch's stores do not ask who one is.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from allranks._rendezvous.attendance import Attendance, cannot_take_part, mismatch
from allranks._rendezvous.batches import (
    ARRIVED,
    BATCHES,
    LOOK,
    batch,
    bring,
    place_in_index,
    rows_of,
    seat,
)
from allranks._rendezvous.judge import LINGER, TIME_IS_UP, Judge
from allranks._rendezvous.record import (
    Batch,
    HostSeat,
    HostVerdict,
    Signature,
    StoreMovesError,
    read,
)
from allranks._rendezvous.verdicts import (
    IDENTITY,
    READ,
    VERDICT,
    comes,
    read_verdict,
    refuse_foreign,
    signature_of,
    tell_failure,
)
from allranks._system import processes
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.waiting import BackgroundCall
from allranks.errors import MissingRanksError, RendezvousError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch.distributed as dist

    from allranks._rendezvous.host_meeting import HostAgent
    from allranks._rendezvous.meeting import Meeting
    from allranks._rendezvous.record import RankRecord, RollCallResult
    from allranks._system.waiting import Deadline

READ_BY_ALL = 256
"""Batches that a rank reads itself where rank 0 does not tell who is missing."""


class RollCall:
    """One rank's side of the roll call on one store, for itself and for those that came to it."""

    def __init__(
        self,
        meeting: Meeting,
        me: RankRecord,
        deadline: Deadline,
        agent: HostAgent | None = None,
        *,
        near_first: bool = False,
    ) -> None:
        """Prepare the roll call; nothing is sent yet.

        Args:
            meeting: the store that all ranks reach, empty of earlier roll calls.
            me: this rank's record.
            deadline: when to give up.
            agent: where other ranks of this host come to; None where this rank is for itself.
            near_first: whether other hosts cannot reach the store yet, and may have to.
        """
        self._meeting = meeting
        self._store = meeting.store
        self._me = me
        self._deadline = deadline
        self._agent = agent
        self._near_first = near_first
        self._brought: dict[int, tuple[RankRecord, ...]] = {}
        self._signed: RankRecord = me

    def answer(self) -> HostVerdict:
        """Answer, and wait until every rank has answered. Collective over the world.

        Its store calls may block past the deadline where the network is cut, so the caller
        runs it in a thread that can be left behind.

        Raises:
            RendezvousError: one of its kinds, which names the ranks at fault.
            StoreMovesError: the ranks must meet once more, and with them those of other hosts.
        """
        try:
            self.present()
            return self._judge() if self._me.rank == 0 else self.await_verdict()
        except RuntimeError as error:
            if isinstance(error, RendezvousError):
                raise
            if self._may_have_moved():
                raise StoreMovesError("while this rank was about to answer") from error
            raise _store_lost(self._meeting, self._me, error) from error

    def present(self) -> None:
        """Bring this rank's record into the store, and those of its host; nothing is awaited."""
        if self._me.rank == 0:
            self._sign()
            self._bring(self._store, [self._me])
            return
        signature = self._meeting.signature
        signature = signature or signature_of(self._store, self._meeting.place, self._deadline)
        self._agree_with(signature.rank_0)
        here = self._agent.gathered(self._signed, self._me, self._deadline) if self._agent else []
        self._bring(self._store, [self._me, *here])

    def _sign(self) -> None:
        """The first that signs is rank 0; of two, the second one tells all, and fails."""
        if self._store.add("signed", 1) > 1:
            refuse_foreign(self._store, self._me, self._meeting.place, self._deadline)
        signature = Signature(self._me, self._meeting.nonce, self._me.versions)
        self._store.set(IDENTITY, written(signature))

    def _agree_with(self, first: RankRecord) -> None:
        self._signed = first
        if first.job != self._me.job:
            refuse_foreign(self._store, self._me, self._meeting.place, self._deadline)
        if first.world_size != self._me.world_size:
            self._fail(self._store, mismatch(self._me, first))

    def _bring(self, store: dist.Store, rows: Iterable[RankRecord]) -> None:
        """Bring records, each with this rank's way to rank 0's host, which is its host's."""
        route = self._meeting.route
        if route:
            rows = [replace(row, address=route.here, address_of_0=route.there) for row in rows]
        rows = tuple(rows)
        self._brought[bring(store, rows, self._me.world_size)] = rows
        failed = next((row for row in rows if row.error), None)
        if failed and self._me.rank:
            self._fail(store, cannot_take_part(failed))

    def _judge(self) -> HostVerdict:
        judge = Judge(self._meeting, self._me, self._deadline, near_first=self._near_first)
        if self._me.error:
            judge.condemn(cannot_take_part(self._me))
        return judge.judge()

    def await_verdict(self) -> HostVerdict:
        """What rank 0 makes of all records. Not for rank 0, which makes it."""
        if not self._comes():
            # Rank 0's clock may have started later: tell it, then hear what it makes of it.
            self._store.set(TIME_IS_UP, "")
            self._store.set(LOOK, "")
            if not comes(self._store, VERDICT, LINGER):
                raise self._unanswered()
        verdict = read_verdict(
            self._store, self._meeting.place, readers=sum(map(len, self._brought.values()))
        )
        return self._of_this_host(verdict)

    def _comes(self) -> bool:
        """Whether the verdict comes in time; those who come to this rank late are brought."""
        if not self._agent:
            return comes(self._store, VERDICT, self._deadline.left)
        agent = self._agent

        def park() -> bool:
            try:
                return comes(self._store, VERDICT, self._deadline.left)
            finally:
                agent.wake()

        parked, store = BackgroundCall(park), None
        while not (parked.over or agent.closed):
            if late := agent.newcomers(None):
                store = store or self._meeting.another_store(self._deadline)
                self._bring(store, [*late, *agent.newcomers(0.0)])
        return parked.result(LINGER)

    def _of_this_host(self, verdict: RollCallResult) -> HostVerdict:
        place, key = self._meeting.place, seat(self._me.host_key)
        if self._store.check([key]):
            told = read(HostSeat, self._store.get(key), key, place)
            found = HostVerdict(
                told.node,
                verdict.num_nodes,
                self._records_in(told),
                self._signed,
                self._meeting.route.here if self._meeting.route else self._me.address,
                verdict.address_of_0,
            )
            if found.holds(self._me):
                return found
        refuse_foreign(self._store, self._me, place, self._deadline)
        raise RendezvousError(f"{self._me}: the roll call at {place} is over, without this process")

    def _records_in(self, told: HostSeat) -> tuple[RankRecord, ...]:
        """The records of this host: only those are read that this rank did not bring itself."""
        others = [number for number in told.batches if number not in self._brought]
        brought = rows_of(self._store, others, self._meeting.place)
        by_number = {**self._brought, **{number: one.rows for number, one in brought.items()}}
        rows = [row for number in told.batches for row in by_number[number]]
        ours = {row.rank: row for row in rows if row.host_key == self._me.host_key}
        return tuple(ours[rank] for rank in sorted(ours))

    def _fail(self, store: dist.Store, error: RendezvousError) -> NoReturn:
        """Tell everybody, through rank 0's verdict, and raise."""
        tell_failure(store, error)
        store.add(READ, sum(map(len, self._brought.values())) or 1)
        raise error

    def _unanswered(self) -> MissingRanksError:
        """Rank 0 gives no verdict, though it was told that time is up."""
        attendance = Attendance(self._store, self._me, self._meeting.place)
        size, seconds = self._me.world_size, self._deadline.seconds
        came = self._store.add(ARRIVED, 0)
        if came < size and self._store.add(BATCHES, 0) <= READ_BY_ALL:
            attendance.read_on()
            return attendance.missing(seconds)
        how = f"{came} of {size} ranks came, and" if came < size else f"all {size} ranks came, but"
        first = self._signed
        near = first.pid_space == self._me.pid_space and processes.is_held(first.pid)
        condition = f": {processes.condition(first.pid)}" if near else " gives no answer"
        return MissingRanksError(
            f"{how} not all finished answering within {seconds:.3g} s; {first}{condition}. Seen by "
            f"{self._me}, at {self._meeting.place}. Rank 0's own log, or its launcher's, says why.",
            missing=[0],
        )

    def _may_have_moved(self) -> bool:
        """Whether rank 0 may have left its store for another, not knowing of this rank."""
        return self._near_first and self._me.rank != 0 and not self._brought


def _store_lost(meeting: Meeting, me: RankRecord, error: RuntimeError) -> RendezvousError:
    lost = (
        f"the store at {meeting.place} closed during the roll call, so rank 0 has probably failed"
    )
    if meeting.external_store:
        lost = f"{meeting.external_store} closed during the roll call; no rank serves it"
    return RendezvousError(f"{me}: {lost}; its own log says why. ({error})")


def record_of(store: dist.Store, rank: int) -> RankRecord | None:
    """What a rank told in a roll call that is over; None if it told nothing that can be read.

    Two reads, however many ranks there are, each of what is there already.
    """
    key, position = place_in_index(rank)
    with suppress(MalformedError):
        text = _at_once(store, key)
        numbers = parsed(list[int], text) if text else []
        if position < len(numbers):
            text = _at_once(store, batch(numbers[position]))
            rows = parsed(Batch, text).rows if text else ()
            return next((row for row in rows if row.rank == rank), None)
    return None


def all_records(store: dist.Store) -> dict[int, RankRecord]:
    """What all ranks told in a roll call that is over, by rank; in few reads."""
    number = store.add(BATCHES, 0)
    brought = rows_of(store, range(1, number + 1), "the store") if number else {}
    return {row.rank: row for one in brought.values() for row in one.rows}


def _at_once(store: dist.Store, key: str) -> bytes | None:
    return store.get(key) if store.check([key]) else None
