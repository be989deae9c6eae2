"""Where the ranks of the doctor tell each other what they found: the store in which they met."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.waiting import BackgroundCall, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist

    from allranks._system.waiting import Deadline

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that the store may take beyond a deadline, before the call is left behind."""

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two looks: all ranks look, and one store answers them."""


class BoardLostError(ConnectionError):
    """The store answers no more, or holds something that no rank has written."""


class Board:
    """The store, under a name of its own."""

    def __init__(self, store: dist.Store) -> None:
        """Take the store in which the ranks have met."""
        self._store = store

    def tell(self, key: str, value: object) -> None:
        """Let all ranks read a value.

        Raises:
            BoardLostError: the store does not take it.
        """
        text = written(value)
        _in_time(lambda: self._store.set(f"doctor/{key}", text), 0.0)

    def hear(self, kind: type[T], keys: Sequence[str], deadline: Deadline) -> list[T | None]:
        """Values that others tell; None for each that does not come in time.

        Args:
            kind: the type of all of them.
            keys: under which they are told.
            deadline: for all of them.

        Raises:
            BoardLostError: the store does not answer.
        """
        return _in_time(lambda: [self._heard(kind, key, deadline) for key in keys], deadline.left)

    def hear_one(self, kind: type[T], key: str, deadline: Deadline) -> T | None:
        """A value that another one tells, as ``hear``."""
        return self.hear(kind, (key,), deadline)[0]

    def _heard(self, kind: type[T], key: str, deadline: Deadline) -> T | None:
        pause = FIRST_PAUSE
        while not self._store.check([f"doctor/{key}"]):
            if deadline.passed:
                return None
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE)
        return parsed(kind, self._store.get(f"doctor/{key}"))


def _in_time(call: Callable[[], T], seconds: float) -> T:
    """What a call to the store gives, within these seconds and some more."""
    try:
        return BackgroundCall(call).result(seconds + PATIENCE)
    except StillRunning:
        raise BoardLostError("it does not answer") from None
    except RuntimeError as error:  # As torch's errors of stores are.
        raise BoardLostError(str(error)) from error
    except MalformedError as error:
        raise BoardLostError(f"another release of allranks has written there: {error}") from error
