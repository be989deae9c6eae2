"""One rank of a random program: makes its calls, compares what they give, and keeps a diary.

    python benchmarks/chaos_worker.py SEED RANKS DIRECTORY

Whatever starts it has set the variables of its launcher. The diary, ``rank-N.jsonl``, is written
line by line, so that it tells how far a rank came that was killed.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import allranks
import chaos_data
import chaos_values
from chaos_calls import Call
from chaos_leftovers import held
from chaos_programs import (
    AWHILE,
    FORKS,
    LINGER,
    PAUSES,
    RENDEZVOUS,
    STALL_AFTER,
    TIMEOUT,
    Boom,
    Fault,
    Program,
    drawn,
    range_of,
)
from chaos_steps import ANSWERS, MAKERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos_steps import Step

LONG = 60.0
"""Seconds that a fork lives on: longer than any program."""

CALM = 20
"""So many times in a row it holds as much as before, once it is calm."""

CLOCK_MONOTONIC, SIGEV_SIGNAL = 1, 0

SIGNALS = {
    "kill": signal.SIGKILL,
    "segfault": signal.SIGSEGV,
    "terminate": signal.SIGTERM,
    "interrupt": signal.SIGINT,
    "stop": signal.SIGSTOP,
    "stop and go on": signal.SIGSTOP,
}


class Diary:
    """What a rank has done and seen, each with its time on the clock that all ranks share."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, **more: Any) -> None:
        """Add a line."""
        line = json.dumps({"what": what, "at": time.monotonic(), **more}, default=repr)
        os.write(self._file, f"{line}\n".encode())

    def write_error(self, error: BaseException) -> None:
        """Add what an error says, and whom it accuses."""
        facts = {name: getattr(error, name, None) for name in ("rank", "missing", "code")}
        self.write("error", kind=type(error).__name__, text=str(error), **facts)


def signal_after(signum: int, seconds: float) -> None:
    """Have the kernel send this process a signal, wherever it stands then."""
    libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    event = (ctypes.c_int * 16)(0, 0, signum, SIGEV_SIGNAL)
    when = (ctypes.c_long * 4)(0, 0, int(seconds), max(1, int(seconds % 1 * 1e9)))
    if libc.timer_create(CLOCK_MONOTONIC, event, ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "no timer for the fault")
    if libc.timer_settime(timer, 0, when, None):
        raise OSError(ctypes.get_errno(), "the timer of the fault was not set")


class Rank:
    """A rank on its way through a program."""

    def __init__(self, program: Program, directory: Path) -> None:
        self.program = program
        self.number = int(os.environ["RANK"])
        self.diary = Diary(directory / f"rank-{self.number}.jsonl")
        self.directory = directory
        self._groups: dict[str, Any] = {}
        self._step = -1

    @property
    def _fault(self) -> Fault:
        fault = self.program.fault
        return fault if fault.rank == self.number else Fault()

    def enter(self, phase: str) -> None:
        """Note that a phase begins, and suffer the fault that is due in it."""
        self.diary.write("phase", phase=phase, step=self._step)
        fault = self._fault
        in_step = phase in ("step", "new_group")
        due = fault.phase == phase and (not in_step or fault.step == self._step)
        if fault.kind in FAULTS and due:
            self.diary.write("fault", delay=fault.delay or 0.0)
            FAULTS[fault.kind](self, fault)

    def announcing(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which announces a phase when it is called."""

        @functools.wraps(function)
        def announced(*arguments: Any, **more: Any) -> Any:
            self.enter(phase)
            return function(*arguments, **more)

        return announced

    def announce_phases(self) -> None:
        """Have calls of allranks tell on the faulty rank when a phase within them begins."""
        import torch.distributed as dist

        from allranks._rendezvous import host_meeting, roll_call

        for phase, place, name in (
            ("roll call", roll_call.RollCall, "answer"),
            ("roll call", host_meeting.HostVisitor, "hear"),
            ("connecting", dist, "init_process_group"),
            ("new_group", dist, "new_group"),
        ):
            setattr(place, name, self.announcing(phase, getattr(place, name)))

    def play(self) -> None:
        """Make all calls of the program."""
        self.diary.write("pid", pid=os.getpid(), store=os.environ.get("ALLRANKS_STORE", ""))
        atexit.register(self.enter, "exit")
        if self._fault.kind != "none":
            self.announce_phases()
        try:
            self.enter("start")
            self.diary.write("held", **_held_now())
            self._in_a_world()
            self._tell_what_is_held()
            self.diary.write("done")
            self.enter("after")
        except BaseException as error:
            self.diary.write_error(error)
            raise

    def _tell_what_is_held(self) -> None:
        """Note what is still held after the cleanup, in every second job that goes on."""
        if self.program.fault.kind not in ("none", *PAUSES, *FORKS) or self.program.seed % 2:
            return
        from allranks._transport import process_groups

        self._groups.clear()
        # As the next setup() does; until then they stay, on purpose.
        process_groups.release_retired()
        self.diary.write("held", **_held_when_calm())

    def _in_a_world(self) -> None:
        self.enter("setup")
        settings: Any = {
            "cpu": True,
            "timeout": TIMEOUT,
            "rendezvous_timeout": RENDEZVOUS,
            "stall_after": STALL_AFTER,
            "check": self.program.check,
        }
        if self.program.session:
            with allranks.session(**settings):
                self._make_calls()
        else:
            allranks.setup(**settings)
            self._make_calls()
            allranks.cleanup()

    def _make_calls(self) -> None:
        for number, step in enumerate(self.program.steps):
            self._step = number
            self._make(step)
        self._step = -1
        self.enter("end")

    def _make(self, step: Step) -> None:
        taking_part = self.program.callers(step, self.number)
        if not taking_part:
            return
        self.enter("step")
        fault, made = self._fault, step
        if self._step == fault.step and fault.kind in ("another call", "a skipped call"):
            self.diary.write("fault", delay=0.0)
            if fault.other is None:
                return
            made = fault.other
        if made.call in MAKERS:
            self._groups[made.group] = self._new_group(made)
        else:
            self._compare(made, taking_part)
        self.diary.write("did", step=self._step)

    def _new_group(self, step: Step) -> Any:
        if step.call == "split":
            key = step.keys[self.number] if step.keys else None
            return allranks.split(step.colors[self.number], key)
        return allranks.node_group() if step.call == "node_group" else allranks.leaders_group()

    def _compare(self, step: Step, taking_part: tuple[int, ...]) -> None:
        expected = chaos_values.wanted(step, self.number, taking_part)
        mine = chaos_data.given(step, self.number, len(taking_part))
        group = self._groups.get(step.group)
        call = Call(step, self._step, self.number, taking_part, group, mine, self.directory)
        got = call.make()
        if step.call in ANSWERS:
            self.diary.write("answer", step=self._step, answer=got)
        elif not chaos_values.same(got, expected):
            told = f"{got!r:.300} instead of {expected!r:.300}"
            self.diary.write("wrong", step=self._step, told=told)


def _held_now() -> dict[str, int]:
    """What this process holds; the threads that wait to make calls for others by themselves."""
    waiting = sum(one.name == "allranks-blocking-call" for one in threading.enumerate())
    now = held()
    return {**now, "threads": now["threads"] - waiting, "waiting threads": waiting}


def _held_when_calm() -> dict[str, int]:
    """What this process holds, once threads that were about to end have done so."""
    last, calm = _held_now(), 0
    while calm < CALM:
        time.sleep(0.01)
        now = _held_now()
        calm = calm + 1 if now == last else 0
        last = now
    return last


def _strike(_: Rank, fault: Fault) -> None:
    """A signal, now or after the delay."""
    if fault.delay is not None:
        signal_after(SIGNALS[fault.kind], fault.delay)
    elif fault.kind == "segfault":
        ctypes.string_at(0)
    else:
        os.kill(os.getpid(), SIGNALS[fault.kind])


def _raise(rank: Rank, _: Fault) -> None:
    raise Boom(f"the fault of rank {rank.number}")


def _fork_and_live_on(rank: Rank, _: Fault) -> None:
    if (child := os.fork()) == 0:
        time.sleep(LONG)
        os._exit(0)
    rank.diary.write("fork", pid=child)


def _fork_and_call(rank: Rank, _: Fault) -> None:
    if (child := os.fork()) == 0:
        try:
            rank.diary.write("child", kind="none", text=str(allranks.all_reduce(1.0)))
        except BaseException as error:  # noqa: BLE001 - whatever it says
            rank.diary.write("child", kind=type(error).__name__, text=str(error))
        os._exit(0)
    end = time.monotonic() + AWHILE
    while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)


def _await_ctrl_c(rank: Rank, _: Fault) -> None:
    """Wait for it, as it comes from outside, when the diary tells of the moment."""
    end, sent = time.monotonic() + LONG, rank.directory / "sent"
    while not sent.exists() and time.monotonic() < end:
        time.sleep(0.001)
    if threading.current_thread() is threading.main_thread():  # Another would outlive the main one.
        time.sleep(LINGER)


FAULTS: dict[str, Callable[[Rank, Fault], None]] = {
    **dict.fromkeys(SIGNALS, _strike),
    "raise": _raise,
    "exit 0": lambda _, __: sys.exit(0),
    "exit 3": lambda _, __: sys.exit(3),
    "_exit": lambda _, __: os._exit(4),
    "sleep": lambda _, fault: time.sleep(fault.seconds),
    "fork that lives on": _fork_and_live_on,
    "fork that calls": _fork_and_call,
    "Ctrl-C": _await_ctrl_c,
}
"""How each fault is done, but for those that are another call."""


def play(seed: str, ranks: str, directory: str) -> str:
    """Play a program to its end.

    Args:
        seed: of the program.
        ranks: how many it may have.
        directory: where the diary is.
    """
    import torch

    torch.set_num_threads(1)
    rank = Rank(drawn(int(seed), range_of(ranks)), Path(directory))
    rank.play()
    return f"rank {rank.number}"


if __name__ == "__main__":
    play(*sys.argv[1:])
