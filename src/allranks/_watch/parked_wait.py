"""A wait that is parked in the store: it costs nothing until a key is there.

It blocks in C++, deaf to all, and a time-out would be told on the standard error stream. So its end
is a key, which anybody may set: who has news, and who no longer waits.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from allranks._system.waiting import BackgroundCall, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.distributed as dist

DAYS = timedelta(days=20)
"""How long a wait is parked at most; torch counts milliseconds in 32 bits."""

RELEASE = 1.0
"""Seconds in which a wait ends whose key was set."""


def can_park(store: dist.Store) -> bool:
    """Whether a wait may be parked here: over a connection of its own, ended by keys of others."""
    return hasattr(store, "clone") and bool(store.has_extended_api())  # type: ignore[attr-defined]


class ParkedWait:
    """One wait at a time, in a thread, over a connection of its own.

    Attributes:
        key: what it waits for, or waited for last.
    """

    def __init__(self, store: dist.Store, wake: Callable[[], None]) -> None:
        """Park nothing yet.

        Args:
            store: the store; the wait makes another connection to it.
            wake: is called, in the thread, when the wait is over.
        """
        self.key = ""
        self._clone: Callable[[], dist.Store] = store.clone  # type: ignore[attr-defined]
        self._wake = wake
        self._store: dist.Store | None = None
        self._call: BackgroundCall[None] | None = None

    def park(self, key: str) -> None:
        """Begin to wait for a key."""
        self.key = key
        self._call = BackgroundCall(partial(self._wait, key), then=self._wake)

    def _wait(self, key: str) -> None:
        self._store = self._store or self._clone()
        self._store.wait([key], DAYS)

    @property
    def is_parked(self) -> bool:
        """Whether it waits."""
        return self._call is not None and not self._call.over

    def outcome(self) -> str | None:
        """How a wait has ended, once: "" if the key is there, else why not; None if it waits.

        Raises:
            ConnectionError: there was no connection to be had, this time.
        """
        if self._call is None or not self._call.over:
            return None
        call, self._call = self._call, None
        try:
            call.result(0.0)
        except RuntimeError as error:
            if self._store is None:
                raise ConnectionError(str(error)) from error
            return str(error)
        return ""

    def ended_in_time(self) -> bool:
        """Wait until the wait is over whose key was set; whether it is."""
        try:
            if self._call:
                self._call.result(RELEASE)
        except StillRunning:
            return False
        except RuntimeError:
            pass
        return True
