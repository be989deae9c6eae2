"""The roll call: every rank of this job, and nobody else, answers before any collective.

Each rank does a fixed number of store operations; rank 0 alone reads all records, and writes
one verdict that all read. All that travels is JSON. The identity keeps out accidents (another
job, a duplicate, a wrong world size), not attackers: torch's stores have no authentication.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn

from allranks import _shown, errors
from allranks._waiting import Deadline
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
ARRIVED = "arrived"
FAILURE = "failure"
VERDICT = "verdict"
READ = "read"

LINGER = 1.0
"""Seconds that rank 0 keeps its store open after a failure, so that the others read why."""

PROGRESS_FIRST = 10.0
PROGRESS_EVERY = 30.0


@dataclass(frozen=True)
class Record:
    """What one rank tells the others of itself.

    Attributes:
        rank: its rank.
        world_size: the world size that it believes in.
        job: the job that it belongs to.
        launcher: what started it.
        host: its host's name, for people.
        host_key: tells hosts of the same name apart.
        pid: its process id.
        pid_space: tells in which hosts and containers process ids mean the same.
        device: the device it uses, or None where it is not chosen yet.
        device_uuid: the identity of a CUDA device, or None.
        versions: of Python and torch.
        error: why this rank cannot take part, or None.
        address: its host's numeric address on the route to rank 0's store; None where it hosts
            the store itself, or where no connection leads there.
        address_of_0: rank 0's numeric address, as this rank reached it, or None.
    """

    rank: int
    world_size: int
    job: str
    launcher: str
    host: str
    host_key: str
    pid: int
    pid_space: str
    device: str | None
    device_uuid: str | None
    versions: str
    error: str | None = None
    address: str | None = None
    address_of_0: str | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


@dataclass(frozen=True)
class Layout:
    """Where one rank stands among the hosts, counted from everybody's records.

    Attributes:
        local_rank: its rank on its host.
        local_world_size: how many ranks its host has.
        node_rank: its host's number.
        num_nodes: how many hosts there are.
        here: the ranks of its host.
        neighbours: the records of the other ranks of its host.
        rank_0: rank 0's record, or None on rank 0 itself.
        address: the numeric address at which other hosts reach its host, or None.
        address_of_0: the same of rank 0's host.
    """

    local_rank: int
    local_world_size: int
    node_rank: int
    num_nodes: int
    here: tuple[int, ...] = (0,)
    neighbours: tuple[Record, ...] = ()
    rank_0: Record | None = None
    address: str | None = None
    address_of_0: str | None = None


class RollCall:
    """One rank's side of the roll call on one store."""

    def __init__(self, store: dist.Store, me: Record, place: str, deadline: Deadline) -> None:
        """Prepare the roll call; nothing is sent yet.

        Args:
            store: the store that all ranks reach, empty of earlier roll calls.
            me: this rank's record.
            place: names the store in errors.
            deadline: when to give up.
        """
        self._store = store
        self._me = me
        self._place = place
        self._deadline = deadline
        self._rank_0: Record | None = None

    def answer(self) -> Layout:
        """Answer, and wait until every rank has answered. Collective over the world.

        Its store calls may block past the deadline where the network is cut, so the caller
        runs it in a thread that can be left behind.

        Raises:
            RendezvousError: one of its kinds, which names the ranks at fault.
        """
        try:
            self._present_myself()
            verdict = self._judge() if self._me.rank == 0 else self._await_verdict()
        except RuntimeError as error:
            if isinstance(error, RendezvousError):
                raise
            raise self._store_lost(error) from error
        for warning in verdict["warnings"]:
            tell(f"warning: {warning}")
        layout = _place(self._me.rank, verdict["layout"])
        of_0 = verdict["address_of_0"]
        own = of_0 if layout.node_rank == 0 else self._me.address
        neighbours = tuple(self._records(r for r in layout.here if r != self._me.rank))
        known = replace(layout, neighbours=neighbours, rank_0=self._rank_0)
        return replace(known, address=own, address_of_0=of_0)

    def _present_myself(self) -> None:
        if self._me.rank != 0:
            self._rank_0 = signature(self._store, self._place, self._deadline)
            self._agree_with(self._rank_0)
        claims = self._store.add(f"claim/{self._me.rank}", 1)
        self._put(f"record/{self._me.rank}/{claims}", asdict(self._me))
        if self._me.rank == 0 and claims == 1:
            self._put(IDENTITY, asdict(self._me))
        if claims > 1:
            self._refuse_duplicate()
        if self._me.error:
            self._fail(RendezvousError(f"{self._me} cannot take part: {self._me.error}"))
        self._store.add(ARRIVED, 1)

    def _agree_with(self, first: Record) -> None:
        object_to(self._store, self._me, self._place, self._deadline)
        if first.world_size != self._me.world_size:
            self._fail(
                WorldMismatchError(
                    f"{self._me} believes that the world has {self._me.world_size} ranks, {first} "
                    f"says {first.world_size}. Start all of them with one world size."
                )
            )

    def _refuse_duplicate(self) -> None:
        object_to(self._store, self._me, self._place, self._deadline)
        first = Record(**self._get(f"record/{self._me.rank}/1"))
        self._fail(duplicate(first, self._me))

    def _judge(self) -> dict[str, Any]:
        if not self._await_all():
            if self._store.check([FAILURE]):
                self._condemn(revive(self._get(FAILURE)), self._me.world_size - 1)
            self._condemn(self._missing(), self._store.add(ARRIVED, 0) - 1)
        records = self._records(range(self._me.world_size))
        verdict = {
            "layout": _run_lengths(records),
            "warnings": list(_doubts(records)),
            "address_of_0": _as_others_reach(records),
        }
        self._put(VERDICT, verdict)
        return verdict

    def _await_all(self) -> bool:
        pause, report = 0.001, PROGRESS_FIRST
        while self._store.add(ARRIVED, 0) < self._me.world_size:
            if self._deadline.passed or self._store.check([FAILURE]):
                return False
            if self._deadline.elapsed > report:
                tell(
                    f"still waiting: {self._who_is_missing(self._absent(), self._deadline.elapsed)}"
                )
                report += PROGRESS_EVERY
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return True

    def _await_verdict(self) -> dict[str, Any]:
        if not comes(self._store, VERDICT, self._deadline.left):
            # Rank 0's clock may have started later: tell it, then hear what it makes of it.
            error = self._missing()
            self._put(FAILURE, pack(error))
            if not comes(self._store, VERDICT, LINGER):
                raise error
        return read_verdict(self._store)

    def _condemn(self, error: RendezvousError, readers: int) -> NoReturn:
        """Write rank 0's verdict, and keep the store open until the others have read it."""
        self._put(VERDICT, {"error": pack(error)})
        end = Deadline.after(LINGER)
        while self._store.add(READ, 0) < readers and not end.passed:
            time.sleep(0.005)
        raise error

    def _fail(self, error: RendezvousError) -> NoReturn:
        """Tell everybody, through rank 0's verdict, and raise."""
        if self._me.rank == 0:
            self._condemn(error, self._me.world_size - 1)
        self._put(FAILURE, pack(error))
        self._store.add(READ, 1)
        raise error

    def _missing(self) -> MissingRanksError:
        absent = self._absent()
        return MissingRanksError(
            f"{self._who_is_missing(absent, self._deadline.seconds)}. Seen by {self._me}, at "
            f"{self._place}. The missing ranks' own logs, or their launcher's, say why.",
            missing=absent,
        )

    def _who_is_missing(self, absent: list[int], seconds: float) -> str:
        size = self._me.world_size
        others = set(range(size)) - {*absent, self._me.rank}
        seen = [(self._get(f"record/{rank}/1")["host"], rank) for rank in others]
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

    def _records(self, ranks: Iterable[int]) -> list[Record]:
        keys = [f"record/{rank}/1" for rank in ranks]
        if keys and self._store.has_extended_api():  # type: ignore[attr-defined]  # not in the stubs
            return [Record(**json.loads(text)) for text in self._store.multi_get(keys)]
        return [Record(**self._get(key)) for key in keys]

    def _store_lost(self, error: RuntimeError) -> RendezvousError:
        return RendezvousError(
            f"{self._me}: the store at {self._place} closed during the roll call, so rank 0 has "
            f"probably failed; its own log says why. ({error})"
        )

    def _put(self, key: str, value: dict[str, Any]) -> None:
        self._store.set(key, json.dumps(value))

    def _get(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._store.get(key))
        return found


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


def signature(store: dist.Store, place: str, deadline: Deadline) -> Record:
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
    return Record(**json.loads(store.get(IDENTITY)))


def answered(store: dist.Store, rank: int) -> Record | None:
    """What a rank told in the roll call on a store; None where there was none."""
    key = f"record/{rank}/1"
    return Record(**json.loads(store.get(key))) if store.check([key]) else None


def is_closed(store: dist.Store) -> bool:
    """Whether the roll call on a store is over."""
    return bool(store.check([VERDICT]))


def read_verdict(store: dist.Store) -> dict[str, Any]:
    """Rank 0's verdict, once it is there.

    Raises:
        RendezvousError: the verdict is that the roll call failed.
    """
    verdict: dict[str, Any] = json.loads(store.get(VERDICT))
    if "error" in verdict:
        store.add(READ, 1)
        raise revive(verdict["error"])
    return verdict


def object_to(store: dist.Store, me: Record, place: str, deadline: Deadline) -> None:
    """Raise what a rank must say to a store that it cannot join.

    Raises:
        WrongJobError: the store is another job's, or its job is complete.
        RendezvousError: the roll call of this job failed, and how.
        DuplicateRankError: this rank 0 is the second one; the first is told, since nobody can
            know which of the two the other ranks belong to.
    """
    signed = signature(store, place, deadline)
    if signed.job != me.job:
        raise WrongJobError(
            f"the store at {place} belongs to job {signed.job!r} ({signed}), and this process, "
            f"{me}, is of job {me.job!r}. {TWO_JOBS}"
        )
    if is_closed(store):
        read_verdict(store)
        raise WrongJobError(
            f"the job at {place} is complete ({signed}), and this process, {me}, is not part of "
            f"it. {TWO_JOBS}"
        )
    if me.rank == 0:
        error = duplicate(signed, me)
        store.set(FAILURE, json.dumps(pack(error)))
        raise error


def duplicate(first: Record, second: Record) -> DuplicateRankError:
    """The error for two processes with one rank."""
    return DuplicateRankError(
        f"rank {first.rank} is claimed twice: by pid {first.pid} on {first.host} and by pid "
        f"{second.pid} on {second.host}. Is the script started once per node without its "
        f"launcher? {TWO_JOBS}",
        rank=first.rank,
    )


def pack(error: RendezvousError) -> dict[str, Any]:
    """An error of ours as JSON: its class's name, its message and its fields."""
    return {"kind": type(error).__name__, "message": str(error), "fields": vars(error)}


def revive(packed: dict[str, Any]) -> RendezvousError:
    """The error that ``pack`` packed, on another rank."""
    kind: type[RendezvousError] = getattr(errors, packed["kind"])
    return kind(packed["message"], **packed["fields"])


def ranges(ranks: Iterable[int]) -> str:
    """Ranks for people: ``0-3, 7``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in runs)


def tell(text: str) -> None:
    """One line to the user, on the standard error stream."""
    _shown.show(sys.stderr, f"allranks: {text}\n")


def _run_lengths(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Pairs of (node, number of consecutive ranks on it): short where ranks stand in blocks."""
    nodes: dict[str, int] = {}
    numbers = [nodes.setdefault(record.host_key, len(nodes)) for record in records]
    return [(node, len(list(run))) for node, run in groupby(numbers)]


def _as_others_reach(records: Sequence[Record]) -> str | None:
    """Rank 0's address, as ranks on other hosts reached it."""
    others = (record for record in records if record.host_key != records[0].host_key)
    return next((record.address_of_0 for record in others if record.address_of_0), None)


def _place(rank: int, layout: Sequence[tuple[int, int]]) -> Layout:
    nodes = [node for node, length in layout for _ in range(length)]
    mine = nodes[rank]
    here = tuple(other for other, node in enumerate(nodes) if node == mine)
    return Layout(here.index(rank), len(here), mine, len(set(nodes)), here)


def _doubts(records: Sequence[Record]) -> Iterable[str]:
    """What is allowed, but seldom meant."""
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
