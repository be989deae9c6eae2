"""The pipes of children: what comes out of them is passed to whoever listens, in one loop."""

from __future__ import annotations

import math
import os
import selectors
from contextlib import suppress
from typing import TYPE_CHECKING

from allranks._system.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    React: TypeAlias = Callable[[Any], bool]

LAST_READS = 16
"""Reads of a pipe whose child has ended: all that it can hold, unless others still write."""


class Pipes:
    """Descriptors that are read when there is something to read."""

    def __init__(self) -> None:
        """Listen to nothing yet."""
        self._selector = selectors.DefaultSelector()
        self._last: object = None
        self._remind: Callable[[], float | None] = lambda: None

    def listen(self, file: Any, react: React, *, last: bool = False) -> None:
        """Call a function whenever a file has something to read.

        Args:
            file: a descriptor, or a socket. It is closed when the function has returned False.
            react: takes the file; returns whether more may come.
            last: whether its turn comes after all others': a child writes before it ends.
        """
        self._selector.register(file, selectors.EVENT_READ, react)
        if last:
            self._last = file

    def ignore(self, file: Any) -> None:
        """Listen to a file no longer, and leave it open."""
        self._selector.unregister(file)

    def before_waiting(self, remind: Callable[[], float | None]) -> None:
        """Call a function before each wait.

        Args:
            remind: returns the seconds after which it must be called again, or None.
        """
        self._remind = remind

    def _ready(self, seconds: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        end = Deadline.after(math.inf if seconds is None else seconds)
        while True:
            due = self._remind()
            wait = end.left if due is None else min(due, end.left)
            ready = self._selector.select(None if wait == math.inf else wait)
            if ready or end.passed:
                return ready

    def step(self, seconds: float | None) -> None:
        """React to what is there; wait for so long until something is, or for ever (None)."""
        ready = self._ready(seconds)
        for key, _ in sorted(ready, key=lambda pair: pair[0].fileobj is self._last):
            if not key.data(key.fileobj):
                self._selector.unregister(key.fileobj)
                os.close(key.fd)

    def drain(self) -> None:
        """Read what is left; a child's own child may hold its pipe for ever."""
        for key in list(self._selector.get_map().values()):
            with suppress(BlockingIOError):
                for _ in range(LAST_READS):
                    if not key.data(key.fileobj):
                        break

    def close(self) -> None:
        """Close all that is listened to."""
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
