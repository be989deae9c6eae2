"""Another process's memory, read in one copy: Linux's process_vm_readv, as MPI libraries use it.

The system allows it for processes of one user, in one pid namespace of one host. Where it does not
(Yama's ptrace_scope=1, Ubuntu's default, refuses it for processes that are no ancestors; so do some
containers' seccomp filters), nothing here asks it to: letting any process of the user read ours is
not our decision to make. A peer's memory is therefore read once on trial, and data travel over the
group's sockets where that fails.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
from functools import cache
from typing import Any, NamedTuple

from allranks._system import variables

SWITCH = "ALLRANKS_PEER_MEMORY"
"""The variable that turns it off, on any one rank or on all: 0."""

AT_ONCE = 2**28
"""Bytes that one call of the system reads; Ctrl-C is heard between two."""


class _Range(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MemoryProbe(NamedTuple):
    """By which a process can try whether it reads another one's memory.

    Attributes:
        where: the host and pid namespace within which a pid means one process; "" where the
            process lets nobody read.
        pid: the process.
        address: where it holds the secret.
        secret: in hexadecimal digits.
    """

    where: str = ""
    pid: int = 0
    address: int = 0
    secret: str = ""


def present(where: str) -> tuple[MemoryProbe, Any]:
    """This process's probe, and the secret, which must stay alive as long as the probe is tried.

    Args:
        where: within what a pid means one process.
    """
    if not _is_on():
        return MemoryProbe(), None
    secret = secrets.token_bytes(16)
    held = ctypes.create_string_buffer(secret, len(secret))
    return MemoryProbe(where, os.getpid(), ctypes.addressof(held), secret.hex()), held


def readable(probe: MemoryProbe, where: str) -> bool:
    """Whether the memory of the process that made this probe can be read by this one.

    Args:
        probe: the other process's.
        where: within what a pid means one process here.
    """
    if probe.where != where or not _is_on():
        return False
    found = ctypes.create_string_buffer(len(probe.secret) // 2)
    try:
        read(probe.pid, probe.address, ctypes.addressof(found), len(found))
    except OSError:
        return False
    return found.raw.hex() == probe.secret


def _is_on() -> bool:
    return not variables.is_off(SWITCH) and _readv() is not None


def read(pid: int, address: int, into: int, length: int) -> None:
    """Copy memory of another process into this one's.

    Args:
        pid: the other process.
        address: where it begins there.
        into: the address here.
        length: in bytes.

    Raises:
        OSError: it cannot be read; some of it may have been.
    """
    done = 0
    while done < length:
        part = min(AT_ONCE, length - done)
        here, there = _Range(into + done, part), _Range(address + done, part)
        count = _readv()(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        if count <= 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        done += count


@cache
def _readv() -> Any:
    """The system's call; None where there is none."""
    found = sys.platform == "linux" and getattr(
        ctypes.CDLL(None, use_errno=True), "process_vm_readv", None
    )
    if not found:
        return None
    number, ranges = ctypes.c_ulong, ctypes.POINTER(_Range)
    found.argtypes = (ctypes.c_int, ranges, number, ranges, number, number)
    found.restype = ctypes.c_ssize_t
    return found
