"""A watch's own way to the store, which nothing that happens to the store holds up."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

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


class _Asked(NamedTuple):
    """A question that the store has not answered in time, as far as one knows."""

    question: Callable[[dist.Store], Any]
    call: BackgroundCall[Any]


class StoreClient:
    """A way to the store that may fall silent, or be lost: then nobody is held up.

    Attributes:
        store: the store, over the connection that is sooner free.
        has_own: whether that is a connection of one's own.
        lost: how the store was lost; "" if it is there.
    """

    def __init__(self, store: dist.Store, wake: Callable[[], None] | None = None) -> None:
        """Ask nothing yet: gloo holds the connection of the program while it connects.

        Args:
            store: the store, over the connection that the program has.
            wake: is called, from another thread, when a connection of one's own is there.
        """
        self.store = store
        self.has_own = False
        self.lost = ""
        self._wake = wake
        self._shares = False
        self._own: BackgroundCall[dist.Store] | None = None
        self._asked: _Asked | None = None
        self._end_of_patience: Deadline | None = None
        self._is_silent = False

    def share(self) -> None:
        """Use the program's connection from now on, as long as there is none of one's own."""
        self._shares = True

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to ask over."""
        return self._shares or self.has_own

    def take_own(self) -> None:
        """Change to a connection of one's own, once it is there: making one may take long."""
        connect = _connecting(self.store)
        if self._own is None and connect:
            self._own = BackgroundCall(connect, then=self._wake)
            self._end_of_patience = self._end_of_patience or Deadline.after(PATIENCE)
        elif self._own and self._own.over and not self.has_own:
            try:
                self.store, self.has_own = self._own.result(0.0), True
                self._asked = None  # The program may hold up the other connection for long.
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

    def ask(
        self, question: Callable[[dist.Store], T], otherwise: T, seconds: float | None = None
    ) -> T:
        """What the store answers, or otherwise where it does not.

        An answer that comes late is kept for the one who asks the same again. Nothing is asked
        meanwhile: a store that is slow is not given more to do.

        Args:
            question: uses the store; it may block.
            otherwise: is returned while the store is silent or lost.
            seconds: how long the answer may take before the store is called silent. Where it is
                given, an earlier question that has no answer yet is waited for as long; else
                nothing is asked then.
        """
        if self.lost or not self.is_open or not self._is_free_within(seconds or 0.0):
            return otherwise
        if not self._asked or self._asked.question != question:
            store = self.store
            self._asked = _Asked(question, BackgroundCall(lambda: question(store)))
        try:
            answer = self._asked.call.result(seconds or PATIENCE)
        except StillRunning:
            self._is_silent = True
            return otherwise
        except RuntimeError as error:
            self.lost = str(error)
            return otherwise
        self._asked, self._is_silent = None, False
        return cast("T", answer)

    def _is_free_within(self, seconds: float) -> bool:
        """Whether an earlier question has its answer, or gets it in time."""
        try:
            if self._asked:
                self._asked.call.result(seconds)
        except StillRunning:
            return False
        except RuntimeError as error:
            self.lost = str(error)
            return False
        return True
