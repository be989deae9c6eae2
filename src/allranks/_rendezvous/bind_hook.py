"""Has torch's libraries listen on the ports that ALLRANKS_PORT_RANGE allows.

gloo and NCCL bind the sockets on which they listen to port 0, and have no option for another
(asked for since 2017: pytorch/gloo#54). A library calls ``bind`` through a word that the dynamic
linker has filled in; in this process, that word comes to lead here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from allranks._rendezvous import ports
from allranks._system import elf, sockets
from allranks._system.words import tell
from allranks.errors import ConfigError

LIBRARIES = {"gloo": "libtorch_cpu.so", "NCCL": "libnccl.so.2"}

Bind = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, use_errno=True
)

_replaced: set[str] = set()


def keeps_to_the_range(backend: str) -> bool:
    """From here on, a backend listens on ports of the range where any would do for it.

    Args:
        backend: "gloo" or "NCCL".

    Returns:
        Whether it does; it cannot be had where the platform or torch's build are other ones.
    """
    if backend not in _replaced and _replace(LIBRARIES[backend]):
        _replaced.add(backend)
    return backend in _replaced


def range_of_gloo() -> range | None:
    """The ports that gloo keeps to; None where the kernel chooses."""
    return ports.allowed(os.environ) if "gloo" in _replaced else None


def _replace(library: str) -> bool:
    """Lead a library's calls here; it may make them as long as the process lives."""
    slots = elf.slots(library, "bind")
    if slots:
        ours = Bind(_bind)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(ours))
        for slot in slots:
            slot.value = ctypes.cast(ours, ctypes.c_void_p).value or slot.value
    return bool(slots)


def _bind(fd: int, at: int, size: int) -> int:
    """Like bind(2): 0, or -1 with errno set. It must not raise: C would take an exception for 0."""
    try:
        return _bound(fd, at, size)
    except ConfigError as error:
        failed = errno.EADDRINUSE
        with suppress(Exception):
            tell(str(error))
    except OSError as error:
        failed = error.errno or errno.EINVAL
    except BaseException:  # noqa: BLE001 - a signal's handler has raised
        failed = errno.EINTR
    ctypes.set_errno(failed)
    return -1


def _bound(fd: int, at: int, size: int) -> int:
    host = _of_any_port(ctypes.string_at(at, size))
    among = ports.allowed(os.environ)
    if not host or not among or sockets.is_loopback(host) or not _is_stream(fd):
        theirs: Any = Bind(("bind", ctypes.CDLL(None)))
        return int(theirs(fd, at, size))
    _listen(fd, host, among)
    return 0


def _of_any_port(address: bytes) -> str | None:
    """The host of an internet address whose port is 0."""
    family = int.from_bytes(address[:2], sys.byteorder)
    if address[2:4] != b"\0\0":
        return None
    if family == socket.AF_INET:
        return socket.inet_ntop(family, address[4:8])
    if family != socket.AF_INET6:
        return None
    scope = int.from_bytes(address[24:28], sys.byteorder)
    return socket.inet_ntop(family, address[8:24]) + (f"%{scope}" if scope else "")


def _is_stream(fd: int) -> bool:
    """Whether it is a stream socket; others can be bound, but cannot listen."""
    with socket.socket(fileno=os.dup(fd)) as same:
        return same.type == socket.SOCK_STREAM


def _listen(fd: int, host: str, among: range) -> None:
    """Put a socket that listens in the place of one that is yet to be bound.

    It listens at once, since two sockets with SO_REUSEADDR can be bound to one port until then.
    """
    blocking, inheritable = os.get_blocking(fd), os.get_inheritable(fd)
    with ports.listen_on_any(host, among) as listener:
        os.dup2(listener.fileno(), fd, inheritable)
    os.set_blocking(fd, blocking)
