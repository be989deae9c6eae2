"""The roll call: every rank of this job, and nobody else, answers before any collective.

Each rank does a fixed number of store operations; rank 0 alone reads all records, and writes
one verdict that all read. All that travels is JSON. The identity keeps out accidents (another
job, a duplicate, a wrong world size), not attackers: torch's stores have no authentication.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, NoReturn, TypeVar

from allranks._rendezvous.attendance import ARRIVED, Attendance
from allranks._rendezvous.record import (
    HostLayout,
    PackedError,
    RankRecord,
    RollCallResult,
    StoreMovesError,
    pack,
    read,
    revive,
)
from allranks._system.printable import printable
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.waiting import Deadline
from allranks._system.words import ranges, tell
from allranks.errors import (
    DuplicateRankError,
    MissingRanksError,
    RendezvousError,
    WorldMismatchError,
    WrongJobError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch.distributed as dist

IDENTITY = "identity"
FAILURE = "failure"
VERDICT = "verdict"
READ = "read"

T = TypeVar("T")

LINGER = 1.0
"""Seconds that rank 0 keeps its store open after a failure, so that the others read why."""

NEAR_PATIENCE = 10.0
"""Seconds in which the ranks of one host come; half of the deadline, where that is less."""

PROGRESS_FIRST = 10.0
PROGRESS_EVERY = 30.0


class RollCall:
    """One rank's side of the roll call on one store."""

    def __init__(
        self,
        store: dist.Store,
        me: RankRecord,
        place: str,
        deadline: Deadline,
        external_store: str = "",
        *,
        near_first: bool = False,
    ) -> None:
        """Prepare the roll call; nothing is sent yet.

        Args:
            store: the store that all ranks reach, empty of earlier roll calls.
            me: this rank's record.
            place: names the store in errors.
            deadline: when to give up.
            external_store: names the store where no rank serves it: its loss is no rank's fault.
            near_first: whether other hosts cannot reach the store yet, and may have to.
        """
        self._store = store
        self._near_first = near_first
        self._me = me
        self._place = place
        self._external_store = external_store
        self._deadline = deadline
        self._attendance = Attendance(store, me, place)
        self._rank_0: RankRecord | None = None

    def answer(self) -> HostLayout:
        """Answer, and wait until every rank has answered. Collective over the world.

        Its store calls may block past the deadline where the network is cut, so the caller
        runs it in a thread that can be left behind.

        Raises:
            RendezvousError: one of its kinds, which names the ranks at fault.
            StoreMovesError: the ranks must meet once more, and with them those of other hosts.
        """
        try:
            self._present_myself()
            verdict = self._judge() if self._me.rank == 0 else self._await_verdict()
            layout = _place(self._me.rank, verdict.layout, self._me.world_size)
            local_peers = tuple(
                self._attendance.records(r for r in layout.here if r != self._me.rank)
            )
        except RuntimeError as error:
            if isinstance(error, RendezvousError):
                raise
            raise self._store_lost(error) from error
        for warning in verdict.warnings:
            tell(f"warning: {warning}")
        own = verdict.address_of_0 if layout.node_rank == 0 else self._me.address
        known = replace(layout, local_peers=local_peers, rank_0=self._rank_0)
        return replace(known, address=own, address_of_0=verdict.address_of_0)

    def _present_myself(self) -> None:
        """The first that claims a rank has it; of two, the second one tells all, and fails."""
        if self._me.rank != 0:
            self._rank_0 = rank_0_record(self._store, self._place, self._deadline)
            self._agree_with(self._rank_0)
        claims = self._store.add(f"claim/{self._me.rank}", 1)
        self._attendance.put(f"record/{self._me.rank}/{claims}", self._me)
        if self._me.rank == 0 and claims == 1:
            self._attendance.put(IDENTITY, self._me)
        if claims > 1:
            self._refuse_duplicate()
        if self._me.error:
            self._fail(RendezvousError(f"{self._me} cannot take part: {self._me.error}"))
        self._store.add(ARRIVED, 1)

    def _agree_with(self, first: RankRecord) -> None:
        refuse_foreign(self._store, self._me, self._place, self._deadline)
        if first.world_size != self._me.world_size:
            self._fail(
                WorldMismatchError(
                    f"{self._me} believes that the world has {self._me.world_size} ranks, {first} "
                    f"says {first.world_size}. Start all of them with one world size."
                )
            )

    def _refuse_duplicate(self) -> None:
        refuse_foreign(self._store, self._me, self._place, self._deadline)
        first = self._attendance.get(RankRecord, f"record/{self._me.rank}/1")
        self._fail(duplicate(first, self._me))

    def _judge(self) -> RollCallResult:
        """Rank 0's part: compare the records, once all are there, and answer for all."""
        if not self._await_all():
            if self._store.check([FAILURE]):
                self._condemn(
                    revive(self._attendance.get(PackedError, FAILURE)), self._me.world_size - 1
                )
            self._condemn(self._attendance.missing(self._deadline), self._store.add(ARRIVED, 0) - 1)
        records = self._attendance.records(range(self._me.world_size))
        if told := _disagreement(records):
            self._condemn(RendezvousError(told), self._me.world_size - 1)
        verdict = RollCallResult(_run_lengths(records), _doubts(records), _as_others_reach(records))
        self._attendance.put(VERDICT, verdict)
        return verdict

    def _await_all(self) -> bool:
        """Whether all ranks have answered in time, and none has failed."""
        pause, report = 0.001, PROGRESS_FIRST
        near = min(NEAR_PATIENCE, self._deadline.seconds / 2)
        while self._store.add(ARRIVED, 0) < self._me.world_size:
            if self._deadline.passed or self._store.check([FAILURE]):
                return False
            if self._near_first and self._deadline.elapsed > near:
                self._condemn(
                    StoreMovesError("for other hosts, too"), self._store.add(ARRIVED, 0) - 1
                )
            if self._deadline.elapsed > report:
                present = self._attendance.summary(self._deadline.elapsed)
                tell(f"still waiting: {present}. {self._me.doubt}".removesuffix(". "))
                report += PROGRESS_EVERY
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return True

    def _await_verdict(self) -> RollCallResult:
        if not comes(self._store, VERDICT, self._deadline.left):
            # Rank 0's clock may have started later: tell it, then hear what it makes of it.
            error = self._attendance.missing(self._deadline)
            self._attendance.put(FAILURE, pack(error))
            if not comes(self._store, VERDICT, LINGER):
                raise error
        return read_verdict(self._store, self._place)

    def _condemn(self, error: RendezvousError, readers: int) -> NoReturn:
        """Write rank 0's verdict, and keep the store open until the others have read it."""
        self._attendance.put(VERDICT, RollCallResult(error=pack(error)))
        end = Deadline.after(LINGER)
        while self._store.add(READ, 0) < readers and not end.passed:
            time.sleep(0.005)
        raise error

    def _fail(self, error: RendezvousError) -> NoReturn:
        """Tell everybody, through rank 0's verdict, and raise."""
        if self._me.rank == 0:
            self._condemn(error, self._me.world_size - 1)
        self._attendance.put(FAILURE, pack(error))
        self._store.add(READ, 1)
        raise error

    def _store_lost(self, error: RuntimeError) -> RendezvousError:
        lost = (
            f"the store at {self._place} closed during the roll call, so rank 0 has probably failed"
        )
        if self._external_store:
            lost = f"{self._external_store} closed during the roll call; no rank serves it"
        return RendezvousError(f"{self._me}: {lost}; its own log says why. ({error})")


TWO_JOBS = (
    "Two jobs on one port, or a rank started twice? Give each job a MASTER_PORT of its own, or "
    "unset it."
)


def comes(store: dist.Store, key: str, seconds: float) -> bool:
    """Whether a key appears in time; one blocking store call, however long it takes."""
    try:
        store.wait([key], timedelta(seconds=max(seconds, 0.001)))
    except RuntimeError:
        return bool(store.check([key]))
    return True


def rank_0_record(store: dist.Store, place: str, deadline: Deadline) -> RankRecord:
    """The record of the rank 0 that signed a store.

    Raises:
        MissingRanksError: nobody signs it by the deadline.
    """
    if not comes(store, IDENTITY, deadline.left):
        raise MissingRanksError(
            f"the store at {place} answers, but no rank 0 of allranks has signed it within "
            f"{deadline.seconds:g} s: rank 0 is missing, or the store is another program's.",
            missing=[0],
        )
    return read(RankRecord, store.get(IDENTITY), IDENTITY, place)


def record_of(store: dist.Store, rank: int) -> RankRecord | None:
    """What a rank told in the roll call on a store; None where it told nothing that can be read."""
    key = f"record/{rank}/1"
    with suppress(MalformedError):
        return parsed(RankRecord, store.get(key)) if store.check([key]) else None
    return None


def is_closed(store: dist.Store) -> bool:
    """Whether the roll call on a store is over."""
    return bool(store.check([VERDICT]))


def read_verdict(store: dist.Store, place: str) -> RollCallResult:
    """Rank 0's verdict, once it is there.

    Raises:
        RendezvousError: the verdict is that the roll call failed.
    """
    verdict = read(RollCallResult, store.get(VERDICT), VERDICT, place)
    if verdict.error:
        store.add(READ, 1)
        raise revive(verdict.error)
    return verdict


def refuse_foreign(store: dist.Store, me: RankRecord, place: str, deadline: Deadline) -> None:
    """Raise what a rank must say to a store that it cannot join.

    Raises:
        WrongJobError: the store is another job's, or its job is complete.
        RendezvousError: the roll call of this job failed, and how.
        DuplicateRankError: this rank 0 is the second one; the first is told, since nobody can
            know which of the two the other ranks belong to.
    """
    signed = rank_0_record(store, place, deadline)
    if signed.job != me.job:
        raise WrongJobError(
            f"the store at {place} belongs to job {signed.job!r} ({signed}), and this process, "
            f"{me}, is of job {me.job!r}. {TWO_JOBS}"
        )
    if is_closed(store):
        read_verdict(store, place)
        raise WrongJobError(
            f"the job at {place} is complete ({signed}), and this process, {me}, is not part of "
            f"it. {TWO_JOBS}"
        )
    if me.rank == 0:
        error = duplicate(signed, me)
        store.set(FAILURE, written(pack(error)))
        raise error


def duplicate(first: RankRecord, second: RankRecord) -> DuplicateRankError:
    """The error for two processes with one rank."""
    return DuplicateRankError(
        f"rank {first.rank} is claimed twice: by {first}, and by {second}. Is the script started "
        f"once per node without its launcher? {TWO_JOBS}",
        rank=first.rank,
    )


def _disagreement(records: Sequence[RankRecord]) -> str:
    """Which settings differ that must not, and on which ranks; "" if none."""
    by_setting: dict[str, dict[str, list[int]]] = {}
    for record in records:
        for name, value in record.settings.items():
            by_setting.setdefault(name, {}).setdefault(value, []).append(record.rank)
    differing = [
        " and ".join(f"{name}={value} on {named(ranks)}" for value, ranks in by_value.items())
        for name, by_value in by_setting.items()
        if len(by_value) > 1
    ]
    if not differing:
        return ""
    told = printable("; ".join(differing))
    return (
        f"the ranks were set up differently: {told}. All must call setup() with the same settings, "
        "and with the same variables (ALLRANKS_CHECK) and kinds of devices around them."
    )


def named(ranks: Sequence[int]) -> str:
    """Ranks for people, in a sentence: ``rank 7``, ``ranks 0-3, 7``."""
    return f"rank{'s' * (len(ranks) > 1)} {ranges(ranks)}"


def _run_lengths(records: Sequence[RankRecord]) -> tuple[tuple[int, int], ...]:
    """Pairs of (node, number of consecutive ranks on it): short where ranks stand in blocks."""
    nodes: dict[str, int] = {}
    numbers = [nodes.setdefault(record.host_key, len(nodes)) for record in records]
    return tuple((node, len(list(run))) for node, run in groupby(numbers))


def _as_others_reach(records: Sequence[RankRecord]) -> str | None:
    """Rank 0's address, as ranks on other hosts reached it."""
    others = (record for record in records if record.host_key != records[0].host_key)
    return next((record.address_of_0 for record in others if record.address_of_0), None)


def _place(rank: int, layout: Sequence[tuple[int, int]], world_size: int) -> HostLayout:
    if sum(length for _, length in layout) != world_size:
        raise RendezvousError(
            f"rank 0 told of the hosts of other than {world_size} ranks: {layout}"
        )
    nodes = [node for node, length in layout for _ in range(length)]
    mine = nodes[rank]
    here = tuple(other for other, node in enumerate(nodes) if node == mine)
    return HostLayout(here.index(rank), len(here), mine, len(set(nodes)), here)


def _doubts(records: Sequence[RankRecord]) -> tuple[str, ...]:
    """What is allowed, but seldom meant."""
    return tuple(_doubted(records))


def _doubted(records: Sequence[RankRecord]) -> Iterable[str]:
    """Different versions, and one GPU for two ranks: allowed, but seldom meant."""
    by_versions: dict[str, list[int]] = {}
    by_device: dict[tuple[str, str], list[int]] = {}
    for record in records:
        by_versions.setdefault(record.versions, []).append(record.rank)
        if record.device_uuid:
            by_device.setdefault((record.host, record.device_uuid), []).append(record.rank)
    if len(by_versions) > 1:
        told = "; ".join(f"{text} on ranks {ranges(who)}" for text, who in by_versions.items())
        yield f"the ranks run different versions: {told}"
    for (host, uuid), who in by_device.items():
        if len(who) > 1:
            yield f"ranks {ranges(who)} on {host} use the same GPU, {uuid}; NCCL refuses that"
