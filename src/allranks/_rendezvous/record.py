"""What the ranks tell each other in the roll call: who they are, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from allranks._system.printable import printable
from allranks._system.typed_json import PIDS, RANKS, MalformedError, must_be_in, parsed
from allranks._system.version import __version__
from allranks.errors import (
    DuplicateRankError,
    MissingRanksError,
    RendezvousError,
    WorldMismatchError,
    WrongJobError,
)

T = TypeVar("T")


@dataclass(frozen=True)
class RankRecord:
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
        settings: those in which all ranks must agree, as they are shown.
        doubt: why the others may not come, as its launcher lets it suspect, or "".
        socket: the name of the socket, in hexadecimal digits, on which it hands news on to ranks of
            its host; "" where it has none.
        backend: torch's, as it will be asked for; "" where that depends on a device that is not
            chosen yet, or where the group is up already.
        cpus: the CPUs that its process may use, as 0-3, 8; "" unless it asks to be bound.
        numa_node: that of its device; None where there is none, or nobody asks.
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
    settings: dict[str, str] = field(default_factory=dict)
    doubt: str = ""
    socket: str = ""
    backend: str = ""
    cpus: str = ""
    numa_node: int | None = None

    def __post_init__(self) -> None:
        must_be_in(RANKS, rank=self.rank, world_size=self.world_size)
        must_be_in(PIDS, pid=self.pid)

    def is_of_process_of(self, other: RankRecord) -> bool:
        """Whether it is the word of the very same process, as the same rank."""
        mine, theirs = (self.rank, self.pid, self.host_key), (other.rank, other.pid, other.host_key)
        return mine == theirs

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {printable(self.host)})"


class StoreMovesError(RendezvousError):
    """Rank 0 hosts its store anew, for other hosts too: all that came meet there once more."""


@dataclass(frozen=True)
class HostLayout:
    """Where one rank stands among the hosts, counted from everybody's records.

    Attributes:
        local_rank: its rank on its host.
        local_world_size: how many ranks its host has.
        node_rank: its host's number.
        num_nodes: how many hosts there are.
        here: the ranks of its host.
        local_peers: the records of the other ranks of its host.
        rank_0: rank 0's record, or None on rank 0 itself.
        address: the numeric address at which other hosts reach its host, or None.
        address_of_0: the same of rank 0's host.
    """

    local_rank: int
    local_world_size: int
    node_rank: int
    num_nodes: int
    here: tuple[int, ...] = (0,)
    local_peers: tuple[RankRecord, ...] = ()
    rank_0: RankRecord | None = None
    address: str | None = None
    address_of_0: str | None = None


@dataclass(frozen=True)
class PackedError:
    """A rendezvous error on its way to another rank.

    Attributes:
        kind: its class's name.
        message: its text.
        missing: of a MissingRanksError.
        rank: of a DuplicateRankError.
    """

    kind: str
    message: str
    missing: tuple[int, ...] = ()
    rank: int | None = None

    def __post_init__(self) -> None:
        for rank in (*self.missing, self.rank or 0):
            must_be_in(RANKS, rank=rank)


@dataclass(frozen=True)
class Signature:
    """What rank 0 signs its store with.

    Attributes:
        rank_0: rank 0's record.
        nonce: tells this store from all others; also stands in rank 0's notice, where it posts one.
        versions: rank 0's, for a reader of another release that cannot read the rest.
    """

    rank_0: RankRecord
    nonce: str
    versions: str


@dataclass(frozen=True)
class Batch:
    """Records that one rank brings into the store for all of its host who have come to it."""

    rows: tuple[RankRecord, ...]


@dataclass(frozen=True)
class RollCallResult:
    """What rank 0 makes of all records, for everybody: its size does not grow with the world.

    Attributes:
        num_nodes: how many hosts there are.
        address_of_0: rank 0's numeric address, as ranks on other hosts reached it, or None.
        error: why the roll call has failed, or None.
    """

    num_nodes: int = 1
    address_of_0: str | None = None
    error: PackedError | None = None

    def __post_init__(self) -> None:
        must_be_in(RANKS, num_nodes=self.num_nodes)


@dataclass(frozen=True)
class HostSeat:
    """What rank 0 tells one host.

    Attributes:
        node: the host's number.
        batches: the numbers of the batches that hold its ranks' records.
    """

    node: int
    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        must_be_in(RANKS, node=self.node)
        for number in self.batches:
            must_be_in(RANKS, batch=number)


@dataclass(frozen=True)
class HostVerdict:
    """All that the ranks of one host need to know of the roll call: the same for each of them.

    Attributes:
        node: the host's number.
        num_nodes: how many hosts there are.
        records: of all ranks of the host.
        rank_0: rank 0's record.
        address: the numeric address at which other hosts reach this one, or None.
        address_of_0: the same of rank 0's host.
    """

    node: int
    num_nodes: int
    records: tuple[RankRecord, ...]
    rank_0: RankRecord
    address: str | None = None
    address_of_0: str | None = None

    def __post_init__(self) -> None:
        must_be_in(RANKS, node=self.node, num_nodes=self.num_nodes)

    def holds(self, record: RankRecord) -> bool:
        """Whether a record is among those of the host, and not only its rank."""
        return any(record.is_of_process_of(one) for one in self.records)

    def layout_for(self, rank: int) -> HostLayout:
        """Where one of the host's ranks stands."""
        records = sorted(self.records, key=lambda record: record.rank)
        here = tuple(record.rank for record in records)
        return HostLayout(
            here.index(rank),
            len(here),
            self.node,
            self.num_nodes,
            here,
            tuple(record for record in records if record.rank != rank),
            self.rank_0 if rank else None,
            self.address_of_0 if self.node == 0 else self.address,
            self.address_of_0,
        )


def pack(error: RendezvousError) -> PackedError:
    """An error of ours, to be told to other ranks."""
    return PackedError(
        type(error).__name__,
        str(error),
        getattr(error, "missing", ()),
        getattr(error, "rank", None),
    )


def revive(packed: PackedError) -> RendezvousError:
    """The error that ``pack`` packed, on another rank."""
    message = printable(packed.message)
    if packed.kind == MissingRanksError.__name__:
        return MissingRanksError(message, missing=packed.missing)
    if packed.kind == DuplicateRankError.__name__:
        return DuplicateRankError(message, rank=packed.rank)
    kinds = {kind.__name__: kind for kind in (WrongJobError, WorldMismatchError, StoreMovesError)}
    return kinds.get(packed.kind, RendezvousError)(message)


def read(kind: type[T], text: bytes, key: str, place: str) -> T:
    """What another rank wrote into the store.

    Args:
        kind: what it should be.
        text: what stands there.
        key: where it stands.
        place: names the store.

    Raises:
        RendezvousError: it is something else.
    """
    try:
        return parsed(kind, text)
    except MalformedError as error:
        raise RendezvousError(
            f"{key} in the store at {place} is not what allranks {__version__} writes "
            f"there: {error}. Do all ranks run one release?{_release_of(text)}"
        ) from error


def _release_of(text: bytes) -> str:
    try:
        release = parsed(_Versions, text).versions
    except MalformedError:
        return ""
    return f" That rank has {printable(release)}." if release else ""


@dataclass(frozen=True)
class _Versions:
    versions: str = ""
