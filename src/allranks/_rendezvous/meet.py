"""The meeting: rank 0 hosts a store on a socket that it never lets go, the others find it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from allranks._rendezvous import ports
from allranks._rendezvous.address_board import (
    AddressBoard,
    AgentAddressBoard,
    FileAddressBoard,
    PostedAddress,
)
from allranks._rendezvous.private_store import private_store
from allranks._rendezvous.record import RankRecord
from allranks._rendezvous.roll_call import (
    PROGRESS_EVERY,
    PROGRESS_FIRST,
    TWO_JOBS,
    is_closed,
    rank_0_record,
    record_of,
    refuse_foreign,
)
from allranks._system import sockets
from allranks._system.typed_json import plain
from allranks._system.waiting import BackgroundCall, Deadline, StillRunning
from allranks._system.words import tell
from allranks.errors import MissingRanksError, RendezvousError, WrongJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch.distributed as dist

    from allranks._rendezvous.plan import RendezvousPlan

PATIENCE = 1.0
"""Seconds that one address may take to answer before the next one is tried."""

SLOW_NAMES = 3.0
"""Seconds for one connection from which on the name server is suspected."""

NONCE = "nonce"

T = TypeVar("T")


class Route(NamedTuple):
    """The way from a rank to the host of rank 0's store, by the numeric addresses of its ends."""

    here: str
    there: str


@dataclass
class Meeting:
    """A store that all ranks of the world reach.

    Attributes:
        store: the store.
        place: names it for people.
        route: the way to the store's host; None where this process hosts it, or where no
            connection leads there.
        board: where rank 0 posted its address and must take it down at the end, or None.
        server: what serves the store, on rank 0; nobody else may hold it, lest a process group
            that the program keeps should keep its port.
        external_store: names the store where no rank serves it: its loss is no rank's fault.
        ended: set when the meeting is over.
    """

    store: dist.Store
    place: str
    route: Route | None = None
    board: AddressBoard | None = None
    server: dist.Store | None = None
    external_store: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def take_down(self) -> None:
        """Leave nothing that the next meeting could meet."""
        if self.board:
            self.board.take_down()
        self.server = None
        self.ended.set()


@dataclass(frozen=True)
class StoreAddress:
    """An address where rank 0's store may be.

    Attributes:
        host: a name or a numeric address.
        port: the port.
        notice: the notice that named the address, or None.
    """

    host: str
    port: int
    notice: PostedAddress | None = None

    def __str__(self) -> str:
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{place} ({self.notice})" if self.notice else place


def meet(plan: RendezvousPlan, me: RankRecord, deadline: Deadline) -> Meeting:
    """Find, or on rank 0 host, the store of a world of several ranks. Collective.

    Args:
        plan: how to meet, the same on all ranks.
        me: this rank's record.
        deadline: when to give up.

    Raises:
        RendezvousError: one of its kinds, naming the place and what was found there.
    """
    import torch.distributed as dist

    if plan.private_file:
        return _in_private_file(plan.private_file, me, deadline)
    if plan.agent:
        host, port, prefix = plan.agent
        place = f"torchrun's store at {host}:{port}"
        store, route = _agent_store(host, port, me, deadline)
        return Meeting(dist.PrefixStore(prefix, store), place, route, external_store=place)
    board = _board(plan, me, deadline)
    if me.rank == 0:
        plan = replace(plan, one_host=plan.one_host or plan.near_first)
        return _host_and_post(plan, board, deadline) if board else _host(plan, me, deadline)
    return _StoreSearch(plan, board, me, deadline).find()


def _in_private_file(path: str, me: RankRecord, deadline: Deadline) -> Meeting:
    ended, place = threading.Event(), plain(path)
    opening = BackgroundCall(lambda: private_store(path, ended))
    try:
        return Meeting(opening.result(deadline.left), place, external_store=place, ended=ended)
    except (StillRunning, OSError, RuntimeError) as error:
        raise RendezvousError(
            f"{me}: {place} (ALLRANKS_STORE), where the ranks of one host meet, cannot be opened: "
            f"{_why_it_stays_shut(error)}."
        ) from error


def _why_it_stays_shut(error: Exception) -> str:
    if isinstance(error, StillRunning):
        return "the file system does not answer"
    if isinstance(error, FileNotFoundError):
        return "its directory is gone, since the job that made it has ended"
    return getattr(error, "strerror", None) or str(error)


def _agent_store(
    host: str, port: int, me: RankRecord, deadline: Deadline
) -> tuple[dist.Store, Route]:
    try:
        return BackgroundCall(lambda: _connect(host, port, deadline)).result(deadline.left)
    except (StillRunning, OSError, RuntimeError) as error:
        raise RendezvousError(
            f"{me}: torchrun's store at {host}:{port} (MASTER_ADDR, MASTER_PORT) does not answer: "
            f"{_reason(error)}. Its agent may be gone."
        ) from error


def _board(plan: RendezvousPlan, me: RankRecord, deadline: Deadline) -> AddressBoard | None:
    if isinstance(plan.board, str):
        return FileAddressBoard(plan.board)
    if plan.board is None:
        return None
    host, port, key = plan.board
    store, _ = _agent_store(host, port, me, deadline)
    return AgentAddressBoard(store, host, port, key)


def _host_and_post(plan: RendezvousPlan, board: AddressBoard, deadline: Deadline) -> Meeting:
    """Host the store at any port, and post where it is."""
    addresses = (sockets.LOOPBACK,) if plan.one_host else board.own_addresses()
    on = addresses[0] if len(addresses) == 1 else ""
    listener = ports.listen_on_any(on, plan.port_range)
    notice = PostedAddress.here(addresses, sockets.port_of(listener))
    meeting = _serve(listener, deadline)
    meeting.store.set(NONCE, notice.nonce)
    _reached(board, lambda: board.post(notice), deadline)
    meeting.board = board
    return meeting


def _reached(board: AddressBoard, call: Callable[[], T], deadline: Deadline) -> T:
    """What a board answers: a cut network, or a file system that hangs, holds nobody up."""
    try:
        return BackgroundCall(call).result(deadline.left)
    except StillRunning:
        raise RendezvousError(
            f"{board.place}, where rank 0 posts its address, did not answer within "
            f"{deadline.seconds:g} s; is the network cut, or the file system stuck?"
        ) from None


def _host(plan: RendezvousPlan, me: RankRecord, deadline: Deadline) -> Meeting:
    """Host the store at the first port of the plan that is free."""
    for port in plan.ports:
        listener = _listener(plan, port, me)
        if listener is None:
            _examine_holder(plan, port, me)
            continue
        meeting = _serve(listener, deadline)
        return (
            meeting
            if plan.one_host
            else replace(meeting, place=str(StoreAddress(plan.hosts[0], port)))
        )
    raise RendezvousError(
        f"{me}: no port of {', '.join(map(str, plan.ports))} is free; the last is held by "
        f"{sockets.holder(plan.ports[-1])}."
    )


def _listener(plan: RendezvousPlan, port: int, me: RankRecord) -> socket.socket | None:
    """Where rank 0 listens; None where somebody else has the port."""
    try:
        return _listen(plan, port)
    except OSError as error:
        if sockets.is_taken(error):
            return None
        told = f"{me} cannot listen on {', '.join(plan.hosts)}, port {port}: {error}."
        if sockets.is_foreign(error):
            told += " Rank 0 must run on that host; MASTER_ADDR names it."
        raise RendezvousError(told) from error


def _listen(plan: RendezvousPlan, port: int) -> socket.socket:
    if plan.one_host:
        return sockets.listen(sockets.LOOPBACK, port)
    for host in plan.hosts:
        try:
            listener = sockets.listen(host, port)
        except OSError as error:
            if not sockets.is_foreign(error):
                raise
            continue
        addresses = {*plan.hosts[1:], *sockets.addresses_of(host)}
        if len(addresses) == 1 and not any(map(sockets.is_every_hosts, addresses)):
            return listener
        listener.close()  # Others may come by another address, or know this one as another's.
        return sockets.listen("", port)
    told = "is not known to be an address of this host; listening on all that it has"
    tell(f"warning: {', '.join(plan.hosts)} {told}")
    return sockets.listen("", port)


def _examine_holder(plan: RendezvousPlan, port: int, me: RankRecord) -> None:
    """See who holds a port that rank 0 wants; return where the next port may be tried.

    Raises:
        RendezvousError: the port is the only one, or a rank 0 of this very job holds it.
    """
    host = sockets.LOOPBACK if plan.one_host else plan.hosts[0]
    only_port = len(plan.ports) == 1
    brief = Deadline.after(PATIENCE)
    try:
        store, _ = BackgroundCall(lambda: _connect(host, port, brief)).result(PATIENCE)
        place = str(StoreAddress(host, port))
        BackgroundCall(lambda: refuse_foreign(store, me, place, brief)).result(2 * PATIENCE)
    except (WrongJobError, MissingRanksError):
        if only_port:
            raise
    except RendezvousError:
        raise
    except (StillRunning, OSError, RuntimeError) as error:
        if only_port:
            raise RendezvousError(
                f"{me}: port {port} is held by {sockets.holder(port)}. Unset MASTER_PORT to let "
                "allranks choose a port, or set a free one."
            ) from error


def _serve(listener: socket.socket, deadline: Deadline) -> Meeting:
    address, port = listener.getsockname()[:2]
    own = sockets.LOOPBACK if address in ("0.0.0.0", "::") else address  # noqa: S104

    def serve() -> Meeting:
        fd = listener.detach()
        server = _tcp_store(own, port, deadline, is_master=True, master_listen_fd=fd)
        store = _tcp_store(own, port, deadline, is_master=False)
        return Meeting(store, str(StoreAddress(own, port)), server=server)

    try:
        return BackgroundCall(serve).result(deadline.left)
    except StillRunning:
        raise RendezvousError(
            f"the store on {own}:{port} did not come up within {deadline.seconds:g} s: torch "
            "looks up each peer's name, so a slow name server is the likely cause."
        ) from None


def _connect(host: str, port: int, deadline: Deadline) -> tuple[dist.Store, Route]:
    """Connect to a store. Blocks for longer than the deadline where a port is silent."""
    with sockets.connect(host, port, max(deadline.left, 0.1)) as probe:
        route = Route(probe.getsockname()[0], probe.getpeername()[0])
    began = time.monotonic()
    store = _tcp_store(route.there, port, deadline, is_master=False)
    _complain_of_names(time.monotonic() - began, route.there)
    return store, route


def _tcp_store(host: str, port: int, deadline: Deadline, **more: Any) -> dist.Store:
    import torch.distributed as dist

    return dist.TCPStore(
        host,
        port,
        wait_for_workers=False,
        timeout=timedelta(seconds=deadline.left + PATIENCE),
        use_libuv=sys.platform != "win32",
        **more,
    )


def _complain_of_names(seconds: float, address: str) -> None:
    if seconds > SLOW_NAMES:
        tell(
            f"warning: connecting to the store at {address} took {seconds:.1f} s. torch looks up "
            "every peer's name; a slow name server is the likely cause (list the addresses, IPv6 "
            "forms such as ::ffff:127.0.0.1 too, in /etc/hosts)."
        )


def _reason(error: Exception) -> str:
    if isinstance(error, StillRunning):
        return "something accepts connections there but does not answer as a store"
    if isinstance(error, socket.gaierror):
        return f"the name is unknown on this host ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, OSError):
        return error.strerror or "no answer"
    return f"what answers is no store of torch's ({error})".replace("\n", " ")[:300]


class _EarlierWorldError(RendezvousError):
    """Rank 0 has not left the last world yet; it will."""


class _StoreSearch:
    """A rank's search for the store of rank 0, over all addresses, until the deadline."""

    def __init__(
        self, plan: RendezvousPlan, board: AddressBoard | None, me: RankRecord, deadline: Deadline
    ) -> None:
        self._plan = plan
        self._board = board
        self._me = me
        self._deadline = deadline
        self._tries: dict[StoreAddress, BackgroundCall[Meeting]] = {}
        self._found: dict[StoreAddress, Exception] = {}

    def find(self) -> Meeting:
        pause, report = 0.01, PROGRESS_FIRST
        while not self._deadline.passed:
            if self._deadline.elapsed > report:
                tell(f"still waiting for rank 0: {self._what_was_found()}")
                report += PROGRESS_EVERY
            for address in self._addresses():
                meeting = self._try(address)
                if meeting is not None:
                    return meeting
            time.sleep(min(pause, self._deadline.left))
            pause = min(pause * 1.5, 0.25)
        raise self._verdict()

    def _addresses(self) -> Iterator[StoreAddress]:
        if self._board:
            notice = _reached(self._board, self._board.read, self._deadline)
            if notice:
                yield from (StoreAddress(host, notice.port, notice) for host in notice.addresses)
            return
        hosts = (sockets.LOOPBACK,) if self._plan.one_host else self._plan.hosts
        yield from (StoreAddress(host, port) for port in self._plan.ports for host in hosts)

    def _try(self, address: StoreAddress) -> Meeting | None:
        """One attempt at an address; one that blocks goes on beside the others."""
        seconds = 0.0 if address in self._tries else min(PATIENCE, self._deadline.left)
        if address not in self._tries:
            self._tries[address] = BackgroundCall(lambda: self._meeting_at(address))
        try:
            return self._tries[address].result(seconds)
        except StillRunning as error:
            self._found[address] = error
            return None
        except (OSError, RuntimeError) as error:
            if isinstance(error, RendezvousError) and self._is_final(error):
                raise
            self._found[address] = error
        del self._tries[address]
        return None

    def _was_in(self, store: dist.Store) -> bool:
        """Whether this very process took part in the roll call on a store."""
        told = record_of(store, self._me.rank)
        return told is not None and (told.pid, told.host_key) == (self._me.pid, self._me.host_key)

    def _is_final(self, error: RendezvousError) -> bool:
        """Whether no other address, and no later notice, can be the right one."""
        if isinstance(error, _EarlierWorldError):
            return False
        elsewhere = self._board is not None or len(self._plan.ports) > 1
        return not (elsewhere and isinstance(error, (WrongJobError, MissingRanksError)))

    def _meeting_at(self, address: StoreAddress) -> Meeting:
        """Join a store only after it has shown whose it is: ports are used again."""
        store, route = _connect(address.host, address.port, self._deadline)
        signed = rank_0_record(store, str(address), self._deadline)
        notice = address.notice
        if notice and store.get(NONCE).decode() != notice.nonce:
            raise WrongJobError(f"the store at {address} is not the one of the notice")
        if self._was_in(store):
            raise _EarlierWorldError("the store of this process's last world, not yet gone")
        if signed.job != self._me.job or is_closed(store):
            refuse_foreign(store, self._me, str(address), self._deadline)
        return Meeting(store, str(address), route)

    def _verdict(self) -> RendezvousError:
        wait = f"{self._me} did not find rank 0 within {self._deadline.seconds:g} s"
        if not self._found:
            place = self._board.place if self._board else "any address"
            return MissingRanksError(f"{wait}: it posted no address at {place}.", missing=[0])
        reasons = self._what_was_found()
        for error in self._found.values():
            if isinstance(error, WrongJobError):
                return WrongJobError(f"{wait}. {reasons}. {TWO_JOBS}")
        if all(isinstance(error, ConnectionRefusedError) for error in self._found.values()):
            return MissingRanksError(f"{wait}. {reasons}; rank 0 is missing.", missing=[0])
        return RendezvousError(f"{wait}. {reasons}{self._local_holder()}.")

    def _what_was_found(self) -> str:
        return "; ".join(
            f"{address}: {error if isinstance(error, RendezvousError) else _reason(error)}"
            for address, error in self._found.items()
        )

    def _local_holder(self) -> str:
        here = self._plan.one_host or self._plan.near_first
        known = here and len(self._plan.ports) == 1
        return f". The port is held by {sockets.holder(self._plan.ports[0])}" if known else ""
