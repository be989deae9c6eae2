"""Run a command that may not look into other processes, as under Docker's older profiles.

python without_ptrace.py command [argument ...]
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

REFUSED = {"x86_64": (101, 310), "aarch64": (117, 270)}
"""The numbers of ptrace and process_vm_readv."""

LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, EPERM = 0x7FFF0000, 0x00050001
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse() -> None:
    """A filter of system calls, seccomp(2), which all children inherit."""
    calls = REFUSED[platform.machine()]
    rows = [(LOAD_NUMBER, 0, 0, 0)]
    rows += [(IF_EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    rows += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
    code = b"".join(struct.pack("HBBI", *row) for row in rows)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(rows), code)
    done = libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
        SECCOMP, FILTER, ctypes.byref(program), 0, 0
    )
    if done:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])
