"""Where the ranks of the doctor tell each other what they found: the store in which they met."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from allranks._system.typed_json import parsed, written
from allranks._system.waiting import BackgroundCall

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist

    from allranks._system.waiting import Deadline

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that the store may take beyond a deadline, before the call is left behind."""

PAUSE = 0.02
"""Seconds between two looks."""


class Board:
    """The store, under a name of its own; each call may raise what torch raises of a lost store."""

    def __init__(self, store: dist.Store) -> None:
        """Take the store in which the ranks have met."""
        self._store = store

    def tell(self, key: str, value: object) -> None:
        """Let all ranks read a value."""
        BackgroundCall(lambda: self._store.set(f"doctor/{key}", written(value))).result(PATIENCE)

    def hear(self, kind: type[T], keys: Sequence[str], deadline: Deadline) -> list[T | None]:
        """Values that others tell; None for each that does not come in time."""
        call = BackgroundCall(lambda: self._heard(kind, keys, deadline))
        return call.result(deadline.left + PATIENCE)

    def hear_one(self, kind: type[T], key: str, deadline: Deadline) -> T | None:
        """A value that another one tells; None if it does not come in time."""
        return self.hear(kind, (key,), deadline)[0]

    def _heard(self, kind: type[T], keys: Sequence[str], deadline: Deadline) -> list[T | None]:
        return [self._one(kind, f"doctor/{key}", deadline) for key in keys]

    def _one(self, kind: type[T], key: str, deadline: Deadline) -> T | None:
        while not self._store.check([key]):
            if deadline.passed:
                return None
            time.sleep(PAUSE)
        return parsed(kind, self._store.get(key))
