"""Listening sockets that are bound once and kept, and what can be said of busy ports."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this host by its loopback interface."""
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on this address and is kept, so that nobody can take the port.

    Args:
        host: an address or name of this host; "" for all interfaces.
        port: the port, or 0 for any free one.

    Raises:
        OSError: EADDRINUSE where the port is taken, EADDRNOTAVAIL where the address is not
            this host's, ``socket.gaierror`` where the name is unknown.
    """
    family, _, _, _, address = socket.getaddrinfo(
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
    """Whether binding failed because the address is another host's."""
    return error.errno == errno.EADDRNOTAVAIL


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
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        own: str = probe.getsockname()[0]
        return own


def host_key() -> str:
    """Tells this host from others of the same name: name, boot and network namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/net").readlink()))
    except OSError:
        pass  # Not Linux: the name has to do.
    return "|".join(parts)
