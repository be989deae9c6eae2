"""Processes of this host: whether they run, and how they ended, as far as one may see."""

from __future__ import annotations

import os
import shlex
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PIDFD_GET_INFO = 0xC048FF0B
"""The request to a process's descriptor, on Linux since 6.15; it answers INFO."""

INFO = struct.Struct("=QQ11IiII")
EXIT_CODE, WITH_EXIT_CODE = 13, 1 << 3
"""Where INFO has the exit code, and the bit of its mask that asks for it and confirms it."""


def pid_space() -> str:
    """Tells apart the hosts and containers in which process ids mean different processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}|{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        import socket

        return socket.gethostname()


def program() -> str:
    """The command line of this process's program."""
    return shlex.join(sys.argv)


def directory() -> str:
    """Where this process runs; "" where that directory is gone."""
    with suppress(OSError):
        return str(Path.cwd())
    return ""


def state(pid: int) -> str:
    """A process's state as Linux has it (R, S, D, T, Z, ...); "" where there is none to see."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def is_held(pid: int) -> bool:
    """Whether a process can be seen to do nothing more: stopped, in a debugger, or ended."""
    return state(pid) in ("T", "t", "Z", "X")


def is_gone(pid: int) -> bool:
    """Whether a process of this host has ended, reaped or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return state(pid) in ("Z", "X")


def opened(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends (Linux; None elsewhere).

    Raises:
        ProcessLookupError: it has ended.
    """
    opener = getattr(os, "pidfd_open", None)  # Some builds of Python for Linux lack it, too.
    if opener is None:
        return None
    try:
        descriptor: int = opener(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # An old kernel, a filter of system calls, or no descriptor left.
    return descriptor


def resident() -> int:
    """Bytes of memory that this process holds; 0 where that cannot be seen."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def how_it_ended(pid: int, descriptor: int | None) -> int | None:
    """The exit code of a process that has ended, or minus a signal's number; None if unknown."""
    for look in (_reaped_status, _zombies_status, _reaped_status):  # It may be reaped meanwhile.
        status = look(pid, descriptor)
        if status is not None:
            return os.waitstatus_to_exitcode(status)
    return None


def _zombies_status(pid: int, _: int | None) -> int | None:
    """The last number of a zombie's line is its status, for those who may trace the process."""
    if state(pid) != "Z":
        return None
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().split()[-1])
    return None


def _reaped_status(_: int, descriptor: int | None) -> int | None:
    if descriptor is None or sys.platform != "linux":
        return None
    import fcntl

    asked = bytearray(INFO.size)
    struct.pack_into("=Q", asked, 0, WITH_EXIT_CODE)
    try:
        fcntl.ioctl(descriptor, PIDFD_GET_INFO, asked)
    except OSError:
        return None  # An older kernel.
    info = INFO.unpack(asked)
    return info[EXIT_CODE] if info[0] & WITH_EXIT_CODE else None


def status_of_child(child: int) -> int | None:
    """How a child has ended, as ``how_it_ended``; None while it runs.

    The child stays to be reaped, so that its id is nobody else's yet.
    """
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13.
        pid, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    told = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if told is None:
        return None
    return told.si_status if told.si_code == os.CLD_EXITED else -told.si_status


def reap(child: int) -> None:
    """Let a child that has ended go."""
    with suppress(ChildProcessError):
        os.waitpid(child, 0)


def end_sessions(leaders: Collection[int]) -> None:
    """Kill all processes of these sessions: what their first processes have started.

    A process that has made a session of its own is spared. Where there is no /proc, so is one
    that has made a process group of its own.

    Args:
        leaders: the sessions' first processes, not reaped yet: another may have the id after.
    """
    for leader in leaders:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    killed: set[int] = set()
    while fresh := set(_members(leaders)) - killed:  # One may have forked while we looked.
        for pid in fresh:
            _kill_if_member(pid, leaders)
        killed |= fresh


def _members(sessions: Collection[int]) -> Iterator[int]:
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - cheap
    except FileNotFoundError:
        return
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) in sessions:
                yield pid


def _kill_if_member(pid: int, sessions: Collection[int]) -> None:
    """Kill a process of these sessions, and no other that has its id meanwhile."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = opened(pid)
        try:
            if os.getsid(pid) not in sessions:
                return
            if descriptor is None:
                os.kill(pid, signal.SIGKILL)
            else:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def signal_name(number: int) -> str:
    """A signal's name, for people; real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def ending(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "ended without a word"
    return f"{exited(code)}, without a word" if code >= 0 else exited(code)


def exited(code: int) -> str:
    """How a process exited, for people.

    Args:
        code: its exit code, or minus the number of the signal that ended it.
    """
    if code >= 0:
        return f"left with exit code {code}"
    name = signal_name(-code)
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def condition(pid: int) -> str:
    """What can be said of a process that does not answer; "" if nothing."""
    if is_gone(pid):
        return "its process is gone"
    return {
        "T": "its process is stopped (SIGSTOP, or a terminal's Ctrl-Z)",
        "t": "its process is held by a debugger",
        "D": "its process waits in the kernel, as for a disk or a network file system",
        "R": "its process runs, deep in code that holds the interpreter's lock",
        "S": "its process sleeps",
    }.get(state(pid), "")
