"""Where a loop over items stands, and what it costs: what lines and bars show."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from allranks._training.smoothed_value import SmoothedValue

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTE = 2**20


class LoopState:
    """How far a loop is, and how long its items take.

    Attributes:
        header: what the user calls the loop.
        length: how many items there are to be; None if nobody knows.
        done: how many items are done.
        meters: tells the user's meters, as text.
        delimiter: what stands between the parts of a line.
    """

    def __init__(
        self, header: str, length: int | None, meters: Callable[[], str], delimiter: str
    ) -> None:
        self.header = header
        self.length = length
        self.done = 0
        self.meters = meters
        self.delimiter = delimiter
        self._item_time = SmoothedValue(fmt="{avg:.4f}")
        self._data_time = SmoothedValue(fmt="{avg:.4f}")
        self._began = self._waits_since = time.perf_counter()

    def wait_for_item(self) -> None:
        """From now on, the loop waits for its next item."""
        self._waits_since = time.perf_counter()

    def begin_item(self) -> None:
        """The next item is there."""
        self._data_time.update(time.perf_counter() - self._waits_since)

    def end_item(self) -> None:
        """The user's code is done with it."""
        self._item_time.update(time.perf_counter() - self._waits_since)
        self.done += 1

    def line(self) -> str:
        """The last item, as a line."""
        at = f"{max(0, self.done - 1):{len(self._length())}d}"
        parts = (f"[{at}/{self._length()}]", self._eta(), self.meters(), *self.costs())
        return self.delimiter.join((self.header, *parts))

    def summary(self) -> str:
        """How long the whole loop took, as a line."""
        seconds = time.perf_counter() - self._began
        each = seconds / self.done if self.done else math.nan
        return f"{self.header} Total time: {_duration(seconds)} ({each:.4f} s / it)"

    def position(self) -> str:
        """How many items are done, of how many, and when the last one is expected."""
        return f"{self.done}/{self._length()} {self._eta()}"

    def costs(self) -> list[str]:
        """Seconds per item and for its data, on average over a window; megabytes on CUDA."""
        return [f"time: {self._item_time}", f"data: {self._data_time}", *_memory()]

    def _length(self) -> str:
        return "?" if self.length is None else str(self.length)

    def _eta(self) -> str:
        if self.length is None or not self.done:
            return "eta: ?"
        left = max(0, self.length - self.done)
        return f"eta: {_duration(self._item_time.global_avg * left)}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _memory() -> list[str]:
    torch: Any = sys.modules.get("torch")  # Who has not imported it has nothing on CUDA.
    if torch is None or not torch.cuda.is_available():
        return []
    return [f"max mem: {torch.cuda.max_memory_allocated() / MEGABYTE:.0f}"]
