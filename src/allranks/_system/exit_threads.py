"""Threads that must not wake while the interpreter ends.

A thread that returns from a call of torch's at that moment asks for the interpreter's lock, is
ended by Python in the middle of C++, and takes the process with it (SIGABRT, in 3 of 4 exits).
Nothing of torch's ends such a call. So the thread is given a signal whose handler never returns; it
sleeps there until the process is gone.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from typing import TYPE_CHECKING

from allranks._system import processes

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable


def park(threads: Iterable[threading.Thread]) -> None:
    """Let threads that sleep in the kernel sleep on (Linux; elsewhere nothing is done).

    Nothing may be expected of them afterwards. One that runs is left alone: it may hold a lock.

    Args:
        threads: of this process, and not this one.
    """
    signum = _unused_signal()
    if sys.platform != "linux" or signum is None:
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signum, ctypes.cast(libc.pause, ctypes.c_void_p))
    for thread in threads:
        if thread.ident and thread.native_id and processes.state(thread.native_id) == "S":
            signal.pthread_kill(thread.ident, signum)


def _unused_signal() -> int | None:
    """A real-time signal that nobody handles."""
    lowest, highest = getattr(signal, "SIGRTMIN", 0), getattr(signal, "SIGRTMAX", 0)
    numbers = range(highest - 1, lowest + 2, -1)
    return next((n for n in numbers if signal.getsignal(n) is signal.SIG_DFL), None)
