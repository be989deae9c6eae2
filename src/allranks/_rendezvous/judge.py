"""Rank 0's part of the roll call: it waits for all, compares their records, and answers for all."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NoReturn

from allranks._rendezvous.attendance import Attendance
from allranks._rendezvous.batches import ARRIVED, LOOK, index_of, seat, set_all
from allranks._rendezvous.record import (
    HostSeat,
    HostVerdict,
    PackedError,
    RollCallResult,
    StoreMovesError,
    pack,
    read,
    revive,
)
from allranks._rendezvous.verdicts import FAILURE, READ, VERDICT
from allranks._system import descriptors
from allranks._system.printable import printable
from allranks._system.typed_json import written
from allranks._system.waiting import Deadline
from allranks._system.words import named, ranges, tell
from allranks.errors import RendezvousError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from allranks._rendezvous.meeting import Meeting
    from allranks._rendezvous.record import RankRecord

TIME_IS_UP = "time is up"
"""This key is set by whoever finds that its deadline has passed without a verdict."""

SHARED_GPU = "NCCL_MULTI_RANK_GPU_ENABLE"
"""With this variable NCCL lets ranks share a GPU."""

LINGER = 1.0
"""Seconds that rank 0 keeps its store open after a failure, so that the others read why."""

NEAR_PATIENCE = 10.0
"""Seconds in which the ranks of one host come; half of the deadline, where that is less."""

PROGRESS_FIRST = 10.0
PROGRESS_EVERY = 30.0

LOOK_EVERY = 0.5
"""Seconds after which rank 0 reads what has come so far, though nobody has called it."""

LONGEST_PAUSE = 0.02
"""Seconds between rank 0's questions to its own store whether it was called."""


class Judge:
    """What rank 0 does with the records of a world."""

    def __init__(
        self, meeting: Meeting, me: RankRecord, deadline: Deadline, *, near_first: bool
    ) -> None:
        """Ask nothing yet; the arguments are those of the roll call."""
        self._store = meeting.store
        self._me = me
        self._deadline = deadline
        self._shortage = _shortage(meeting, me)
        self._attendance = Attendance(meeting.store, me, meeting.place)
        self._next_look = 0.0
        self._next_report = PROGRESS_FIRST
        near = min(NEAR_PATIENCE, deadline.seconds / 2)
        self._moves_at = near if near_first else None

    def judge(self) -> HostVerdict:
        """Wait for all ranks, and tell every host of them how the roll call has ended.

        Raises:
            RendezvousError: it has failed, which all hear.
        """
        pause = 0.001
        while not self._all_are_here():
            time.sleep(pause)
            pause = min(pause * 1.2, LONGEST_PAUSE)
        if self._shortage:
            self.condemn(RendezvousError(self._shortage))
        records = self._attendance.by_rank()
        if told := _disagreement(records) or _one_gpu_for_two(records):
            self.condemn(RendezvousError(told))
        for doubt in _doubts(records):
            tell(f"warning: {doubt}")
        return self._publish(records)

    def _all_are_here(self) -> bool:
        """Whether every record is there; one look, and none more in vain than need be."""
        deadline = self._deadline
        if not self._store.check([LOOK]) and deadline.elapsed < self._next_look:
            return False
        self._next_look = deadline.elapsed + LOOK_EVERY
        self._attendance.read_on()
        self._condemn_what_is_wrong()
        if self._attendance.complete:
            return True
        if self._moves_at is not None and deadline.elapsed > self._moves_at:
            self.condemn(StoreMovesError("for other hosts, too"), self._present())
        if deadline.passed or self._store.check([TIME_IS_UP]):
            self.condemn(self._missing(), self._present())
        self._report()
        return False

    def _condemn_what_is_wrong(self) -> None:
        if self._store.check([FAILURE]):
            self.condemn(revive(read(PackedError, self._store.get(FAILURE), FAILURE, "rank 0")))
        if self._attendance.objection:
            self.condemn(self._attendance.objection)
        if self._shortage and _are_used_up():
            self.condemn(RendezvousError(self._shortage))

    def _missing(self) -> RendezvousError:
        """Nobody is to blame who may have found no descriptor left on rank 0."""
        if self._shortage:
            return RendezvousError(self._shortage)
        return self._attendance.missing(self._deadline.seconds)

    def _report(self) -> None:
        if self._deadline.elapsed > self._next_report:
            present = self._attendance.summary(self._deadline.elapsed)
            tell(f"still waiting: {present}. {self._me.doubt}".removesuffix(". "))
            self._next_report += PROGRESS_EVERY

    def _present(self) -> int:
        return self._store.add(ARRIVED, 0) - 1

    def condemn(self, error: RendezvousError, readers: int | None = None) -> NoReturn:
        """Have all ranks raise an error, and keep the store open until they have read it.

        Args:
            error: what they raise.
            readers: how many there are; None for all others, who may be about to come.
        """
        self._store.set(VERDICT, written(RollCallResult(error=pack(error))))
        readers = self._me.world_size - 1 if readers is None else readers
        end = Deadline.after(LINGER)
        while self._store.add(READ, 0) < readers and not end.passed:
            time.sleep(0.005)
        raise error

    def _publish(self, records: Sequence[RankRecord]) -> HostVerdict:
        """The verdict comes last: whoever sees it finds all the rest."""
        attendance = self._attendance
        nodes: dict[str, int] = {}
        for record in records:
            nodes.setdefault(record.host_key, len(nodes))
        seats = {
            seat(key): written(HostSeat(node, tuple(sorted(attendance.batches_of[key]))))
            for key, node in nodes.items()
        }
        index = index_of([attendance.batch_of[record.rank] for record in records])
        set_all(self._store, {**seats, **index})
        verdict = RollCallResult(len(nodes), _as_others_reach(records))
        self._store.set(VERDICT, written(verdict))
        here = tuple(record for record in records if record.host_key == self._me.host_key)
        return HostVerdict(0, len(nodes), here, self._me, None, verdict.address_of_0)


def _shortage(meeting: Meeting, me: RankRecord) -> str:
    """Why rank 0 cannot hold all connections that the world will make; "" where it can."""
    needed = meeting.descriptors_needed
    limit = descriptors.make_room(needed) if needed else None
    if limit is None or limit >= needed:
        return ""
    return (
        f"{me} may have {limit} files and connections open at once, its limit, and a world of "
        f"{me.world_size} ranks needs {needed} there. Raise the hard limit of rank 0's process "
        f"before it starts: `ulimit -n {needed}`, as root if need be; nofile in "
        "/etc/security/limits.conf; LimitNOFILE= of a service; --ulimit nofile= of a container."
    )


def _are_used_up() -> bool:
    limit, in_use = descriptors.make_room(0), descriptors.in_use()
    return in_use is None or (limit is not None and in_use + 2 >= limit)


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


def _as_others_reach(records: Sequence[RankRecord]) -> str | None:
    """Rank 0's address, as ranks on other hosts reached it."""
    others = (record for record in records if record.host_key != records[0].host_key)
    return next((record.address_of_0 for record in others if record.address_of_0), None)


def _doubts(records: Sequence[RankRecord]) -> Iterable[str]:
    """Different versions, and one GPU for two ranks: allowed, but seldom meant."""
    by_versions: dict[str, list[int]] = {}
    for record in records:
        by_versions.setdefault(record.versions, []).append(record.rank)
    if len(by_versions) > 1:
        told = "; ".join(f"{text} on ranks {ranges(who)}" for text, who in by_versions.items())
        yield f"the ranks run different versions: {told}"
    yield from _sharing_a_gpu(records)


def _sharing_a_gpu(records: Iterable[RankRecord]) -> Iterator[str]:
    """Which ranks use one GPU."""
    by_device: dict[tuple[str, str], list[RankRecord]] = {}
    for record in records:
        if record.device_uuid:
            by_device.setdefault((record.host_key, record.device_uuid), []).append(record)
    for (_, uuid), those in by_device.items():
        if len(those) > 1:
            ranks = ranges(record.rank for record in those)
            yield f"ranks {ranks} on {printable(those[0].host)} use the same GPU, {printable(uuid)}"


def _one_gpu_for_two(records: Sequence[RankRecord]) -> str:
    """Which ranks use one GPU over NCCL, which refuses that with a number in place of a name."""
    if os.environ.get(SHARED_GPU, "0") != "0":
        return ""
    over_nccl = (record for record in records if "nccl" in record.backend)
    told = "; ".join(_sharing_a_gpu(over_nccl))
    return told and (
        f"{told}, and NCCL refuses that. Give each rank of a host its own GPU (its local rank, "
        "or CUDA_VISIBLE_DEVICES, chooses it); or start fewer ranks; or let them share it with "
        f"setup(distributed_backend='gloo'), or with {SHARED_GPU}=1 from NCCL 2.30 on."
    )
