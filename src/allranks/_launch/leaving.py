"""How a forked rank leaves: as any program does, but without the interpreter's own end.

Taking the interpreter and torch apart costs each rank 0.3 to 0.5 s of CPU time (measured), and is
of use to nobody. All else is done as Python does it, and in its order. What stays undone is what C
code has registered with C's own ``atexit``; ranks that need it are started with ``--spawn``.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from allranks._system import stacks
from allranks._transport.process_groups import rest_before_exit

if TYPE_CHECKING:
    from collections.abc import Callable

FILE: type = io.IOBase.__bases__[0]
"""The base class of all files. Checking all objects against io.IOBase takes 3 ms (measured)."""

UNFLUSHED = 120
"""The exit code of a program whose output could not be written, as Python has it."""


def leave_after(program: Callable[[], int]) -> NoReturn:
    """Run a program in this process, a fork of ours, and end the process when it is done.

    The threads of the program are joined, the functions of ``atexit`` run, the output is written,
    and the program's own modules go, so that what they hold is closed and finalized.

    Args:
        program: returns its exit code.

    Raises:
        SystemExit: this Python does not let its end be made in part; its own end follows.
    """
    inherited = frozenset(sys.modules)
    code = program()
    join = getattr(threading, "_shutdown", None)  # There is no public name for either.
    if join is None or not hasattr(atexit, "_run_exitfuncs"):
        raise SystemExit(code)
    try:
        _done(join)
    finally:
        _end(code, inherited)


def exit_after(program: Callable[[], int]) -> NoReturn:
    """As ``leave_after``, but through the frames below, which may be a tool's, such as coverage's.

    Args:
        program: returns its exit code.

    Raises:
        SystemExit: always, with the program's exit code.
    """
    inherited = frozenset(sys.modules)
    code = program()
    if hasattr(atexit, "_run_exitfuncs"):
        atexit.register(_end, code, inherited)  # The first to run; the threads are joined by then.
    raise SystemExit(code)


def _end(code: int, inherited: frozenset[str]) -> NoReturn:
    """Do the rest of what the interpreter does at its end, but for taking itself apart."""
    try:
        atexit.unregister(_end)
        atexit.unregister(rest_before_exit)  # Nothing that a thread of gloo's may need goes away.
        _done(atexit._run_exitfuncs)  # noqa: SLF001 - what the interpreter would run
        code = code if _written() else UNFLUSHED
        _flush_all_files()  # The collector may close a file's buffer before its text is in there.
        _done(lambda: _take_the_program_apart(inherited))
        _flush_all_files()
    finally:
        os._exit(code)


def _done(step: Callable[[], object]) -> None:
    """Take a step; whatever it raises, Ctrl-C too, is shown, and the next step follows."""
    try:
        step()
    except BaseException:  # noqa: BLE001 - as the interpreter
        _show_exception()


def _show_exception() -> None:
    with suppress(Exception):  # Standard error may be closed.
        traceback.print_exc()


def _written() -> bool:
    """Whether the standard streams took all that was written to them."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:  # noqa: BLE001 - the program may have put anything there
            written = False
            _show_exception()
    return written


def _take_the_program_apart(inherited: frozenset[str]) -> None:
    """Drop the modules that the user wrote; what something else holds stays.

    An archive is finished and a temporary file is removed when the last reference to it goes.

    Args:
        inherited: the names of the modules that were there before the program: thousands, which
            this process must not touch, since it shares their memory.
    """
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        vars(sys).pop(name, None)
    for name in [name for name in sys.modules if name not in inherited]:
        if stacks.is_written(getattr(sys.modules[name], "__file__", None) or "<none>"):
            del sys.modules[name]
    del sys.modules["__main__"]
    gc.collect()  # What the template held is frozen, and costs nothing.


def _flush_all_files() -> None:
    """Write what is left in files that are still open, C's too."""
    for thing in (sys.__stdout__, sys.__stderr__, *gc.get_objects()):
        if issubclass(type(thing), FILE):
            with suppress(OSError, ValueError):
                thing.flush()
    ctypes.CDLL(None).fflush(None)
