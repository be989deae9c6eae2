"""What ``allranks status`` asks a rank, and what it is told: a row for each rank of the job."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from allranks._rendezvous.record import RankRecord
from allranks._watch.rank_detail import RankDetail

if TYPE_CHECKING:
    from allranks._watch.diagnosis import RankStatus

PREFIX = "allranks-status"
"""How the names of the sockets begin, among the abstract ones of the host."""

RUNNING, WAITING, STOPPED, GONE, LEFT, SILENT = (
    "running",
    "waiting",
    "stopped",
    "gone",
    "left",
    "silent",
)
"""What a rank can be seen to do: the first two tell it themselves."""


class Door(NamedTuple):
    """The socket of a rank.

    Attributes:
        user: whose job it is.
        job: tells the sockets of one job from those of others.
        rank: the rank.
    """

    user: int
    job: str
    rank: int

    @property
    def name(self) -> str:
        """The name of the socket, among the abstract ones of the host."""
        return f"{PREFIX}-{self.user}-{self.job}-{self.rank}"

    @classmethod
    def of(cls, me: RankRecord, first: RankRecord) -> Door:
        """A rank's own.

        Args:
            me: the rank.
            first: rank 0 of its job.
        """
        identity = (first.job, first.world_size, first.pid, first.host_key)
        key = blake2b(repr(identity).encode(errors="replace"), digest_size=8).hexdigest()
        return cls(os.getuid(), key, me.rank)

    @classmethod
    def named(cls, name: str) -> Door | None:
        """The one of a name; None if it is another socket's."""
        start, *fields = name.rsplit("-", 3)
        if start != PREFIX:
            return None
        with suppress(ValueError):
            user, job, rank = fields
            return cls(int(user), job, int(rank))
        return None


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        everybody: whether the rank asks all ranks of its job; else it tells of itself alone.
        verdict: whether a verdict is wanted, why ranks wait.
        details: whether each rank's record, calls and threads are wanted.
    """

    everybody: bool = False
    verdict: bool = False
    details: bool = False


@dataclass(frozen=True)
class RankRow:
    """One rank.

    Attributes:
        rank: the rank.
        host: its host; "" where that is not known.
        pid: its process; 0 where that is not known.
        device: its device, or "".
        state: what it does, in one word.
        doing: its collective and its line, or what is known of it.
        seconds: how long it has been there; 0.0 where that is not known.
        rate: collectives in a second, lately.
        memory: MiB of its process.
        late: seconds that it comes after the first rank, to a call on WORLD, lately, on average.
        stack: where its program stands, innermost first.
        record: what it told in the roll call, where that is asked for.
        detail: its calls and threads, where that is asked for.
    """

    rank: int
    host: str = ""
    pid: int = 0
    device: str = ""
    state: str = SILENT
    doing: str = ""
    seconds: float = 0.0
    rate: float = 0.0
    memory: float = 0.0
    late: float = 0.0
    stack: tuple[str, ...] = ()
    record: RankRecord | None = None
    detail: RankDetail | None = None


@dataclass(frozen=True)
class JobReport:
    """A job, as one of its ranks knows it.

    Attributes:
        job: its identity, as the launcher or the user gave it.
        launcher: who started it.
        world_size: how many ranks it has.
        since: when the rank that tells came up, in seconds since the epoch.
        told_by: that rank.
        rows: of the ranks that it tells of.
        verdict: why ranks wait; "" where that was not asked for, or none waits.
        trouble: why it can tell of no others; "" where it can.
        program: the command line of the rank that tells.
        directory: where it runs.
    """

    job: str
    launcher: str
    world_size: int
    since: float
    told_by: int
    rows: tuple[RankRow, ...] = ()
    verdict: str = ""
    trouble: str = ""
    program: str = ""
    directory: str = ""


def row_of(status: RankStatus, record: RankRecord | None, longest: float = 0.0) -> RankRow:
    """What a rank tells of itself, with what the roll call knows of it.

    Args:
        status: what it tells.
        record: what the roll call knows.
        longest: the longest mean stay of all ranks in an exchange.
    """
    what = status.ours or (str(status.call) if status.call else "")
    number = f" #{status.number}" if status.number else ""
    group = f" on {status.group}" if what and status.group else ""
    where = f"{what}{number}{group}, {status.line}" if what else status.line
    return RankRow(
        status.rank,
        *_place(record),
        WAITING if status.waits else RUNNING,
        where.removesuffix(", "),
        status.seconds,
        status.measures.rate,
        status.measures.memory,
        max(0.0, longest - status.measures.stay),
        status.stack,
    )


def row_without(rank: int, fate: str, record: RankRecord | None) -> RankRow:
    """A rank that tells nothing, and what is known of it."""
    words = ((STOPPED, "is stopped"), (STOPPED, "debugger"), (LEFT, "has left"), (GONE, "is gone"))
    state = next((state for state, word in words if word in fate), SILENT)
    return RankRow(rank, *_place(record), state, fate)


def _place(record: RankRecord | None) -> tuple[str, int, str]:
    return (record.host, record.pid, record.device or "") if record else ("", 0, "")
