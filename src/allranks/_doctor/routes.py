"""Connections between hosts, by sockets of our own: what is let through, and whose clock is off.

Each host listens where gloo would, and goes to the others. What it says first is small, and the
answer carries the time there; what it sends then is larger than any packet. Where that is lost, it
tries smaller packets.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, first_of_hosts
from allranks._rendezvous import ports
from allranks._system import sockets
from allranks._system.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from allranks._doctor.checks import Place

LARGE = 2**18
"""Bytes of the second message: several packets of any size."""

GREETING, DONE = b"?", b"!"

ANSWER = struct.Struct("!dI")
"""What a host answers: its time in seconds, and its number in the job."""

SMALLER = (1450, 1400, 1280, 576)
"""Sizes of packets to try: within one tunnel, within two, and what IPv6 and IPv4 promise."""

HEADERS = {socket.AF_INET: 40, socket.AF_INET6: 60}
"""Bytes of a packet beside TCP's data."""

MOST = 64
"""How many other hosts each one goes to: the next ones by their numbers."""

APART = 2.0
"""Seconds between two clocks that are told; hosts that ask for the time are within a few ms."""


@dataclass(frozen=True)
class Endpoint:
    """Where a host listens.

    Attributes:
        node: its number in the job.
        host: its name.
        address: its numeric address.
        port: the port.
        interface: the interface that has the address, or "".
    """

    node: int
    host: str
    address: str
    port: int
    interface: str


@dataclass(frozen=True)
class Route:
    """What came of going to a host.

    Attributes:
        to: where it listens.
        here: this host's address.
        trouble: why that failed; "" if it did not.
        seconds: how long it took.
        answered: whether the small message came through.
        passes: the size of packets that came through where larger ones were lost; 0 if none did.
        ahead: seconds by which that host's clock is ahead of this one's; None where unknown.
        give_or_take: how exact that is, in seconds.
    """

    to: Endpoint
    here: str
    trouble: str = ""
    seconds: float = 0.0
    answered: bool = False
    passes: int = 0
    ahead: float | None = None
    give_or_take: float = 0.0


@contextmanager
def answering(node: int, among: range | None) -> Iterator[int]:
    """Answer other hosts meanwhile, at all addresses of this one.

    Args:
        node: this host's number.
        among: the ports that may be listened on; None for any.

    Yields:
        The port.
    """
    listener = ports.listen_on_any("", among)
    thread = threading.Thread(target=_answer_all, args=(listener, node), daemon=True)
    thread.start()
    try:
        yield sockets.port_of(listener)
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # Wakes the thread.
        thread.join()
        listener.close()


def _answer_all(listener: socket.socket, node: int) -> None:
    with suppress(OSError):  # It was shut down.
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection, node), daemon=True).start()


def _answer(connection: socket.socket, node: int) -> None:
    with connection, suppress(OSError):
        connection.settimeout(30.0)
        _received(connection, len(GREETING))
        connection.sendall(ANSWER.pack(time.time(), node))
        _received(connection, LARGE)
        connection.sendall(DONE)


def _received(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = connection.recv(min(size - len(found), 1 << 16))
        if not piece:
            raise ConnectionResetError("it closed the connection")
        found += piece
    return found


def tried(own: int, everybody: Sequence[Endpoint], patience: float) -> tuple[Route, ...]:
    """Go to the other hosts, all at once.

    Args:
        own: this host's number.
        everybody: where the hosts listen.
        patience: seconds that each step may take.
    """
    here = next(one.address for one in everybody if one.node == own)
    after = sorted(everybody, key=lambda one: (one.node < own, one.node))
    others = [one for one in after if one.node != own][:MOST]
    if not others:
        return ()
    with ThreadPoolExecutor(len(others)) as pool:
        return tuple(pool.map(lambda to: _tried(Route(to, here), patience), others))


def _tried(route: Route, patience: float) -> Route:
    began = time.monotonic()
    try:
        with _connected(route.to, patience) as connection:
            route = _with_clock(route, connection)
            _send_large(connection)
    except OSError as error:
        route = replace(route, trouble=_told(error, patience))
        return replace(route, passes=_passing(route, patience / 2)) if route.answered else route
    return replace(route, seconds=time.monotonic() - began)


def _told(error: OSError, patience: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {patience:.3g} s"
    return error.strerror or str(error)


def _connected(to: Endpoint, patience: float, packet: int = 0) -> socket.socket:
    """A connection, whose packets are of this size at most, where one is given."""
    family = socket.AF_INET6 if ":" in to.address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        if packet:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, packet - HEADERS[family])
        connection.connect((to.address, to.port))
    except OSError:
        connection.close()
        raise
    return connection


def _with_clock(route: Route, connection: socket.socket) -> Route:
    """How far a host's clock is ahead, as NTP reckons it: half of the round trip is uncertain."""
    began, at = time.monotonic(), time.time()
    connection.sendall(GREETING)
    there, node = ANSWER.unpack(_received(connection, ANSWER.size))
    half = (time.monotonic() - began) / 2
    if node != route.to.node:
        raise ConnectionError("another host answers there")
    return replace(route, answered=True, ahead=there - (at + half), give_or_take=half)


def _send_large(connection: socket.socket) -> None:
    connection.sendall(bytes(LARGE))
    _received(connection, len(DONE))


def _passing(route: Route, patience: float) -> int:
    """The size of packets that come through, though larger ones do not; 0 if none does."""
    for packet in SMALLER:
        with suppress(OSError), _connected(route.to, patience, packet) as connection:
            _with_clock(route, connection)
            _send_large(connection)
            return packet
    return 0


def route_rows(of: Mapping[Place, Sequence[Route]]) -> list[Check]:
    """Rows on routes and clocks; none in a job on one host."""
    hosts = [place for place in first_of_hosts(of) if of[place]]
    if not hosts:
        return []
    return [*_routes(hosts, of), *_clocks(of[hosts[0]], hosts[0])]


def _routes(hosts: Iterable[Place], of: Mapping[Place, Sequence[Route]]) -> list[Check]:
    all_routes = [(place, route) for place in hosts for route in of[place]]
    alike: dict[tuple[int, bool, int], list[tuple[Place, Route]]] = defaultdict(list)
    for place, route in all_routes:
        if route.trouble:
            alike[route.to.node, route.answered, route.passes].append((place, route))
    slowest = max(route.seconds for _, route in all_routes)
    told = counted(len(all_routes), "connection")
    seen = f"{told} between hosts, {LARGE // 1024} KiB over each, {1000 * slowest:.3g} ms at most"
    return list(map(_wrong, alike.values())) or [Check("routes", OK, seen)]


def _wrong(alike: Sequence[tuple[Place, Route]]) -> Check:
    """The row of routes to one host that fail in one way."""
    route = alike[0][1]
    to = route.to
    way = f"{', '.join(place.host for place, _ in alike)} to {to.host} ({to.address}:{to.port})"
    if not route.answered:
        sources = ",".join(one.here for _, one in alike)
        remedy = f"iptables -I INPUT -p tcp -s {sources} -j ACCEPT  # on {to.host}, as root"
        return Check("routes", FAILURE, f"{way}: {route.trouble}", remedy)
    seen = f"{way}: a small message comes through, and one of {LARGE // 1024} KiB does not"
    if not route.passes:
        return Check(
            "routes", FAILURE, f"{seen} ({route.trouble})", f"ping -M do -s 1400 {to.host}"
        )
    seen += f", unless its packets have at most {route.passes} bytes (MTU)"
    remedy = f"ip link set dev {to.interface} mtu {route.passes}  # on all hosts, as root"
    return Check("routes", FAILURE, seen, remedy)


def _clocks(routes: Sequence[Route], here: Place) -> list[Check]:
    """The clocks of other hosts against that of the first one."""
    known = [(route, route.ahead) for route in routes if route.ahead is not None]
    off = [
        _clock(route.to.host, ahead, here)
        for route, ahead in known
        if abs(ahead) - route.give_or_take > APART
    ]
    if off or not known:
        return off
    most = max(abs(ahead) for _, ahead in known)
    exact = max(route.give_or_take for route, _ in known)
    told = f"{1000 * most:.3g} ms apart at most, give or take {1000 * exact:.3g} ms"
    return [Check("clocks", OK, told)]


def _clock(host: str, ahead: float, here: Place) -> Check:
    way = "ahead of" if ahead > 0 else "behind"
    seen = f"{host} is {abs(ahead):.1f} s {way} {here.host}"
    return Check("clocks", WARNING, seen, f"chronyc makestep  # on {host}, as root")
