"""How a rank waits: always so that Ctrl-C and our own deadline reach Python."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.distributed as dist

T = TypeVar("T")

SLICE = timedelta(seconds=0.5)


class StillRunning(TimeoutError):  # noqa: N818 - a state of the call, which its caller words
    """A call did not return by its deadline; its thread is left behind."""


@dataclass(frozen=True)
class Deadline:
    """A point in time on the monotonic clock, and how long it was away at first (seconds)."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline that lies this many seconds from now."""
        return cls(time.monotonic() + seconds, seconds)

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether it lies in the past."""
        return self.left == 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the deadline was set."""
        return time.monotonic() - (self.at - self.seconds)


class _CallThread(threading.Thread):
    """A daemon thread that makes one call after the other; parked among the idle in between."""

    def __init__(self) -> None:
        super().__init__(name="allranks-blocking-call", daemon=True)
        self.calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.calls.get()()


_idle: list[_CallThread] = []
_busy: set[_CallThread] = set()


def workers_in_calls() -> list[threading.Thread]:
    """The threads whose call has not returned yet."""
    return list(_busy)


def _forget_workers() -> None:
    """A fork has no threads but its own."""
    _idle.clear()
    _busy.clear()


os.register_at_fork(after_in_child=_forget_workers)


class BackgroundCall(Generic[T]):
    """A blocking call in a daemon thread, to be waited for, looked at, or left behind.

    torch's store and gloo calls can block in C++ far past the timeout they were given, deaf to
    Ctrl-C; in a thread of its own such a call holds up neither the program nor its exit.
    """

    def __init__(self, call: Callable[[], T], then: Callable[[], None] | None = None) -> None:
        """Begin the call.

        Args:
            call: may block.
            then: is called in that thread once the call is over; must not raise.
        """
        self._call: Callable[[], T] | None = call
        self._then = then
        self._result: T | None = None
        self._error: BaseException | None = None
        self._running = threading.Lock()
        self._running.acquire()
        self._worker = _idle.pop() if _idle else _CallThread()
        _busy.add(self._worker)
        self._worker.calls.put(self._run)

    def _run(self) -> None:
        call, self._call = self._call, None  # What it holds is let go of as soon as it is over.
        try:
            self._result = call() if call else None
        except BaseException as error:  # noqa: BLE001 - raised again in result()
            self._error = error
        finally:
            del call
            _busy.discard(self._worker)
            _idle.append(self._worker)
            self._running.release()
            if self._then:
                self._then()

    def result_unless(self, look: Callable[[], None], seconds: float) -> T:
        """As ``result``, but looks now and then whether there is a reason to wait no longer."""
        end = Deadline.after(seconds)
        while True:
            try:
                return self.result(min(SLICE.total_seconds(), end.left))
            except StillRunning:
                if end.passed:
                    raise
            look()

    @property
    def over(self) -> bool:
        """Whether the call has returned or raised."""
        return not self._running.locked()

    def result(self, seconds: float) -> T:
        """What the call returned, or raised; StillRunning if it takes longer than this."""
        if not self._running.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX)):
            raise StillRunning
        self._running.release()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set, since the call returned


def done_soon(work: dist.Work) -> bool:
    """Wait for a collective for one slice.

    A thread of gloo's may need the interpreter's lock to end the collective, so that nothing
    long should be done between its start and this.
    """
    try:
        work.wait(SLICE)
    except RuntimeError as error:
        if "Operation timed out" not in str(error):
            raise
        return False
    return True


def wait(work: dist.Work, timeout: timedelta, look: Callable[[], None]) -> None:
    """Wait on for a collective after the first slice, so that Ctrl-C works inside it.

    A slice that runs out leaves a gloo collective running, and it can be waited for again.
    Point-to-point operations are different: a slice that runs out closes their connection.

    Args:
        work: the collective's handle.
        timeout: the group's timeout.
        look: is called between the slices, and raises where there is a reason to wait no longer.

    Raises:
        StillRunning: the collective did not complete within the timeout.
    """
    deadline = Deadline.after(timeout.total_seconds() - SLICE.total_seconds())
    while not deadline.passed:
        look()
        if done_soon(work):
            return
    raise StillRunning
