"""A watch's own way to the store, which nothing that happens to the store holds up."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks._system.waiting import BackgroundCall, Deadline, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.distributed as dist

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that the store may take to answer before it is called silent."""


def unless_lost(action: Callable[[], object]) -> None:
    """Use the store from the program's thread, for 2 s at most; do nothing where it is gone."""
    with suppress(StillRunning, RuntimeError):  # Rank 0 is gone or cut off: nobody to be told.
        BackgroundCall(action).result(PATIENCE)


def _connecting(store: dist.Store) -> Callable[[], dist.Store] | None:
    """What makes another connection to a store; None where torch, before 2.8, has no way."""
    import torch.distributed as dist

    clone: Callable[[], dist.Store] | None = getattr(store, "clone", None)
    if clone is None and isinstance(store, dist.TCPStore):
        return partial(dist.TCPStore, store.host, store.port, wait_for_workers=False)
    return clone


class StoreClient:
    """A way to the store that may fall silent, or be lost: then nobody is held up."""

    def __init__(self, store: dist.Store) -> None:
        """Ask nothing yet: gloo holds the connection of the program while it connects.

        Args:
            store: the store, over the connection that the program has.
        """
        self.store = store
        self._shares = False
        self._own: BackgroundCall[dist.Store] | None = None
        self._has_own = False
        self._pending: BackgroundCall[Any] | None = None
        self._end_of_patience: Deadline | None = None
        self._is_silent = False
        self.lost = ""

    def share(self) -> None:
        """Use the program's connection from now on, as long as there is none of one's own."""
        self._shares = True

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to ask over."""
        return self._shares or self._has_own

    def take_own(self) -> None:
        """Change to a connection of one's own, once it is there: making one may take long."""
        connect = _connecting(self.store)
        if self._own is None and connect:
            self._own = BackgroundCall(connect)
            self._end_of_patience = self._end_of_patience or Deadline.after(PATIENCE)
        elif self._own and self._own.over and not self._has_own:
            try:
                self.store, self._has_own = self._own.result(0.0), True
                self._pending = None  # The program may hold up the other connection for long.
            except RuntimeError:
                self._own = None  # The next look tries again.

    @property
    def silent(self) -> bool:
        """Whether the store does not answer, or not even a new connection."""
        unanswered = self._end_of_patience is not None and self._end_of_patience.passed
        return self._is_silent or (not self.is_open and unanswered)

    @property
    def cut_off(self) -> bool:
        """Whether the store has not answered lately, or is lost."""
        return bool(self.lost) or self.silent

    def ask(self, question: Callable[[dist.Store], T], otherwise: T) -> T:
        """What the store answers, or otherwise where it does not.

        Args:
            question: uses the store; it may block.
            otherwise: is returned while the store is silent or lost.
        """
        if self.lost or not self.is_open or (self._pending and not self._pending.over):
            return otherwise
        store = self.store
        asked = self._pending = BackgroundCall(lambda: question(store))
        try:
            answer = asked.result(PATIENCE)
        except StillRunning:
            self._is_silent = True
            return otherwise
        except RuntimeError as error:
            self.lost = str(error)
            return otherwise
        self._is_silent = False
        return cast("T", answer)
