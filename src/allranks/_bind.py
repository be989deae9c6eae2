"""Has torch's libraries listen on the ports that ALLRANKS_PORT_RANGE allows.

gloo and NCCL bind the sockets on which they listen to port 0, and have no option for another
(asked for since 2017: pytorch/gloo#54). Each library calls ``bind`` through one word that the
dynamic linker has filled in; in this process, that word comes to lead here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from allranks import _elf, _ports, _sockets
from allranks._rollcall import tell
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

GLOO = "libtorch_cpu.so"
NCCL = ("libnccl.so.2", "libtorch_cuda.so")
"""A library of its own, or a part of torch's, as the build will have it."""

Bind = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32, use_errno=True
)

_ours: dict[str, Any] = {}
"""By library, what it calls now; kept, since it may call at any time."""


def keep_to_the_range() -> bool:
    """From here on, torch's libraries listen on ports of the range where any would do for them.

    Returns:
        Whether gloo does; it cannot be had where the platform or torch's build are other ones.
    """
    for library in (GLOO, *NCCL):
        if library not in _ours:
            _replace(library)
    return GLOO in _ours


def range_of_gloo() -> range | None:
    """The ports that gloo keeps to; None where the kernel chooses."""
    return _ports.allowed(os.environ) if GLOO in _ours else None


def _replace(library: str) -> None:
    slot = _elf.slot(library, "bind")
    if slot is not None:
        theirs = Bind(slot.value)
        ours = _ours[library] = Bind(lambda fd, at, size: _bind(theirs, fd, at, size))
        slot.value = ctypes.cast(ours, ctypes.c_void_p).value or slot.value


def _bind(theirs: Callable[[int, int, int], int], fd: int, at: int, size: int) -> int:
    """As bind(2): 0, or -1 and an errno."""
    host = _of_any_port(ctypes.string_at(at, size))
    try:
        among = _ports.allowed(os.environ)
        if not host or not among or _sockets.is_loopback(host):
            return theirs(fd, at, size)
        _listen(fd, host, among)
    except ConfigError as error:
        tell(str(error))
        ctypes.set_errno(errno.EADDRINUSE)
        return -1
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EINVAL)
        return -1
    return 0


def _of_any_port(address: bytes) -> str | None:
    """The host of an internet address whose port is 0."""
    family = int.from_bytes(address[:2], sys.byteorder)
    if address[2:4] != b"\0\0":
        return None
    if family == socket.AF_INET:
        return socket.inet_ntop(family, address[4:8])
    return socket.inet_ntop(family, address[8:24]) if family == socket.AF_INET6 else None


def _listen(fd: int, host: str, among: range) -> None:
    """Put a socket that listens in the place of one that is yet to be bound.

    It listens at once, since two sockets with SO_REUSEADDR can be bound to one port until then.
    """
    blocking, inheritable = os.get_blocking(fd), os.get_inheritable(fd)
    with _ports.listen_on_any(host, among) as listener:
        os.dup2(listener.fileno(), fd, inheritable)
    os.set_blocking(fd, blocking)
