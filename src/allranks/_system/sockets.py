"""Listening sockets that are bound once and kept, and what can be said of busy ports."""

from __future__ import annotations

import errno
import socket
import struct
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"

DOCUMENTATION = ("192.0.2.1", "2001:db8::1")
"""Addresses that hardly any host has (RFC 5737, RFC 3849): the default route leads to them."""

LINK_LOCAL = ("fe80:", "169.254.")
"""What addresses begin with that mean nothing beyond one cable."""

SIOCGIFCONF, IFREQ, ADDRESSES = 0x8912, struct.Struct("16s4x4s16x"), 1024
"""Linux's request for all IPv4 addresses, each with its interface's name, netdevice(7)."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this host by its loopback interface."""
    return host in ("localhost", "::1") or host.removeprefix("::ffff:").startswith("127.")


def is_every_hosts(host: str) -> bool:
    """Whether each host means itself by this name or address: it tells nothing of another one."""
    return is_loopback(host) or host in ("0.0.0.0", "::")  # noqa: S104 - nothing is bound


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on this address and is kept, so that nobody can take the port.

    Args:
        host: an address or name of this host; "" for all interfaces, over IPv4 and IPv6.
        port: the port, or 0 for any free one.

    Raises:
        OSError: EADDRINUSE where the port is taken, EADDRNOTAVAIL where the address is not
            this host's, ``socket.gaierror`` where the name is unknown.
    """
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, backlog=socket.SOMAXCONN, dualstack_ipv6=True
        )
    family, _, _, _, address = _looked_up(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError:
        listener.close()
        raise
    return listener


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to an address.

    Raises:
        OSError: there is none, or not within these seconds; ``socket.gaierror`` where the name is
            unknown.
    """
    _looked_up(host, port)
    return socket.create_connection((host, port), timeout=seconds)


def _looked_up(host: str | None, port: int | None, **more: Any) -> list[Any]:
    """What ``socket.getaddrinfo`` finds; it has an error of another kind for what is no name."""
    try:
        return socket.getaddrinfo(host, port, **more)
    except UnicodeError as error:
        told = f"{host!r:.80} is no name of a host: {error}"
        raise socket.gaierror(socket.EAI_NONAME, told) from None


def reserve() -> socket.socket:
    """A loopback port that is bound but does not listen: no other program is given it.

    A server that sets SO_REUSEADDR, as torch's store does, can still listen on it.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((LOOPBACK, 0))
    return reserved


def free_port() -> int:
    """A port that was free a moment ago; ``reserve`` keeps one."""
    with reserve() as reserved:
        return port_of(reserved)


def port_of(bound: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = bound.getsockname()[1]
    return port


def is_taken(error: OSError) -> bool:
    """Whether binding failed because somebody else has the port."""
    return error.errno == errno.EADDRINUSE


def is_foreign(error: OSError) -> bool:
    """Whether binding failed because the address is another host's, or the name is unknown."""
    return error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror)


def holder(port: int) -> str:
    """Who listens on a local port, for people: pid and command, as far as they can be seen."""
    try:
        import psutil

        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:120]
                return f"pid {connection.pid} ({process.username()}: {command})"
    except ImportError:
        return "another process (install psutil to see which)"
    except (psutil.Error, ValueError, TypeError):
        pass
    return "another process, which this user may not see"


def address_towards(host: str, port: int) -> str:
    """This host's own address on the route to another one; nothing is sent.

    Raises:
        OSError: the name is unknown, or no route leads there.
    """
    family, kind, _, _, address = _looked_up(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        own: str = probe.getsockname()[0]
        return own


def own_addresses() -> tuple[str, ...]:
    """This host's numeric addresses that other hosts may reach, likeliest first.

    Those of its name, of its default routes, and of its interfaces; where it has no other, its
    loopback address, since it can have no peers elsewhere.
    """
    found = addresses_of(socket.gethostname())
    for far in DOCUMENTATION:
        with suppress(OSError):
            found.append(address_towards(far, 9))
    found += _ipv4_interfaces()
    found += [socket.inet_ntop(socket.AF_INET6, address) for address in _ipv6_interfaces()]
    usable = [a for a in found if not is_loopback(a) and not a.startswith(LINK_LOCAL)]
    return tuple(dict.fromkeys(usable)) or (LOOPBACK,)


def addresses_of(host: str) -> list[str]:
    """The numeric addresses that a name means on this host; none where it is unknown."""
    try:
        found = _looked_up(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def interface_of(address: str) -> str | None:
    """The name of the interface that has a numeric address; None where that cannot be told."""
    if is_loopback(address):
        names = (name for _, name in socket.if_nameindex())
        return next((name for name in names if name.startswith("lo")), None)
    if ":" in address:
        return _ipv6_interfaces().get(socket.inet_pton(socket.AF_INET6, address.partition("%")[0]))
    return _ipv4_interfaces().get(address)


def addresses_of_interface(name: str) -> list[str]:
    """The numeric addresses of an interface; none where there is no such one, or it is unknown."""
    found = [address for address, its in _ipv4_interfaces().items() if its == name]
    ipv6 = (address for address, its in _ipv6_interfaces().items() if its == name)
    return found + [socket.inet_ntop(socket.AF_INET6, address) for address in ipv6]


def _ipv4_interfaces() -> dict[str, str]:
    """By each IPv4 address, the interface that has it; one may have several."""
    space = array("b", bytes(ADDRESSES * IFREQ.size))
    asked = struct.pack("iP", len(space), space.buffer_info()[0])
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            length, _ = struct.unpack("iP", fcntl.ioctl(probe, SIOCGIFCONF, asked))
    except (ImportError, OSError):
        return {}  # Not Linux.
    found = IFREQ.iter_unpack(space.tobytes()[:length])
    # An address may have a label of its own, as in eth0:1.
    return {
        socket.inet_ntoa(at): name.rstrip(b"\0").decode().partition(":")[0] for name, at in found
    }


def _ipv6_interfaces() -> dict[bytes, str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except OSError:
        return {}  # Not Linux, or a kernel without IPv6.
    return {bytes.fromhex(line.split()[0]): line.split()[-1] for line in lines}


def host_key() -> str:
    """Tells this host from others of the same name: name, boot and network namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/net").readlink()))
    except OSError:
        pass  # Not Linux: the name has to do.
    return "|".join(parts)
