"""The meeting: rank 0 hosts a store on a socket that it never lets go, the others find it."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._rendezvous import ports
from allranks._rendezvous.address_board import (
    AddressBoard,
    AgentAddressBoard,
    FileAddressBoard,
    PostedAddress,
    reached,
)
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.private_store import private_store
from allranks._rendezvous.store_search import StoreSearch
from allranks._rendezvous.tcp_store import PATIENCE, StoreAddress, connect, reason, tcp_store
from allranks._rendezvous.verdicts import refuse_foreign
from allranks._system import sockets
from allranks._system.typed_json import plain
from allranks._system.waiting import BackgroundCall, Deadline, StillRunning
from allranks._system.words import tell
from allranks.errors import ConfigError, MissingRanksError, RendezvousError, WrongJobError

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.plan import RendezvousPlan
    from allranks._rendezvous.record import RankRecord
    from allranks._rendezvous.tcp_store import Route

LATE = 3.0
"""Seconds after which a directory that one rank has made is seen by all, at most."""


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
    return StoreSearch(plan, board, me, deadline).find()


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
        return BackgroundCall(lambda: connect(host, port, deadline)).result(deadline.left)
    except (StillRunning, OSError, RuntimeError) as error:
        raise RendezvousError(
            f"{me}: torchrun's store at {host}:{port} (MASTER_ADDR, MASTER_PORT) does not answer: "
            f"{reason(error)}. Its agent may be gone."
        ) from error


def _board(plan: RendezvousPlan, me: RankRecord, deadline: Deadline) -> AddressBoard | None:
    if isinstance(plan.board, str):
        _await_directory(Path(plan.board).parent, deadline)
        return FileAddressBoard(plan.board)
    if plan.board is None:
        return None
    host, port, key = plan.board
    store, _ = _agent_store(host, port, me, deadline)
    return AgentAddressBoard(store, host, port, key)


def _await_directory(shared: Path, deadline: Deadline) -> None:
    """Other hosts may see a directory late that a rank has just made."""
    end = Deadline.after(min(LATE, deadline.left))
    while not shared.is_dir():
        if end.passed:
            raise ConfigError(
                f"the ranks were to meet in {shared}, and there is no such directory on "
                f"{socket.gethostname()}: create it, or name one that all hosts share"
            )
        time.sleep(0.05)


def _host_and_post(plan: RendezvousPlan, board: AddressBoard, deadline: Deadline) -> Meeting:
    """Host the store at any port, and post where it is."""
    addresses = (sockets.LOOPBACK,) if plan.one_host else board.own_addresses()
    on = addresses[0] if len(addresses) == 1 else ""
    listener = ports.listen_on_any(on, plan.port_range)
    notice = PostedAddress.here(addresses, sockets.port_of(listener))
    meeting = _serve(listener, deadline)
    meeting.nonce = notice.nonce
    reached(board, lambda: board.post(notice), deadline)
    meeting.board = board
    return meeting


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
        store, _ = BackgroundCall(lambda: connect(host, port, brief)).result(PATIENCE)
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
        server = tcp_store(own, port, deadline, is_master=True, master_listen_fd=fd)
        store = tcp_store(own, port, deadline, is_master=False)
        return Meeting(store, str(StoreAddress(own, port)), server=server)

    try:
        return BackgroundCall(serve).result(deadline.left)
    except StillRunning:
        raise RendezvousError(
            f"the store on {own}:{port} did not come up within {deadline.seconds:g} s: torch "
            "looks up each peer's name, so a slow name server is the likely cause."
        ) from None
