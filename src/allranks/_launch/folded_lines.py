"""Lines that several ranks write alike become one, in an order in which each rank's own is kept."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FEW_RANKS = 8

WINDOWS = (0.1, 0.3)
"""Seconds for which a line waits for others to write it too: among few ranks, and among many."""

MOST = (1024, 1 << 20)
"""Lines, and bytes of them, that wait; beyond that the oldest no longer does."""


@dataclass(frozen=True)
class Line:
    """A line that waits.

    Attributes:
        number: how many lines came before it.
        stream: where it was written: 1 or 2.
        text: what was written, without the end of the line.
        ranks: who wrote it.
        until: when it is shown at the latest, on the clock.
    """

    number: int
    stream: int
    text: bytes
    ranks: list[int]
    until: float


class FoldedLines:
    """What ranks wrote and nobody has seen yet.

    A line is shown at once when every rank has written it, or something after it. So all ranks'
    greeting does not wait, and with one rank nothing does. Lines leave in the order in which they
    came; a rank's line joins an equal one only after the last line that the rank itself wrote.
    """

    def __init__(
        self,
        ranks: int,
        show: Callable[[list[int], int, bytes], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        fold: bool = True,
    ) -> None:
        """Begin with nothing.

        Args:
            ranks: how many ranks there are.
            show: takes the ranks that wrote a line, the stream and the line.
            clock: seconds.
            fold: False shows each line at once, and alone.
        """
        self._fold = fold
        self._show = show
        self._clock = clock
        self._window = WINDOWS[ranks > FEW_RANKS]
        self._lines: deque[Line] = deque()
        self._alike: dict[tuple[int, bytes], deque[Line]] = {}
        self._last = dict.fromkeys(range(ranks), -1)
        self._open = {(rank, stream) for rank in range(ranks) for stream in (1, 2)}
        self._begun = 0
        self._size = 0

    def add(self, rank: int, stream: int, text: bytes) -> None:
        """Take a rank's next line."""
        if not self._fold:
            self._show([rank], stream, text)
            return
        alike = self._alike.setdefault((stream, text), deque())
        last = self._last.get(rank, -1)
        line = None
        if alike and alike[-1].number > last:
            line = next(one for one in alike if one.number > last)
        if line is None:
            line = Line(self._begun, stream, text, [], self._clock() + self._window)
            self._begun += 1
            self._size += len(text)
            self._lines.append(line)
            alike.append(line)
        line.ranks.append(rank)
        self._last[rank] = line.number
        self._show_what_is_complete()

    def end(self, rank: int, stream: int) -> None:
        """A rank's stream has ended; for one that writes no more the others' lines do not wait."""
        self._open.discard((rank, stream))
        if not {(rank, 1), (rank, 2)} & self._open:
            self._last.pop(rank, None)
            self._show_what_is_complete()

    def show_all_of(self, rank: int) -> None:
        """Show what a rank has written, and all that came before."""
        while self._lines and self._lines[0].number <= self._last.get(rank, -1):
            self._show_first()

    def show_due(self) -> float | None:
        """Show what has waited long enough.

        Returns:
            The seconds after which more is due; None if nothing waits.
        """
        now = self._clock()
        while self._lines and self._lines[0].until <= now:
            self._show_first()
        return self._lines[0].until - now if self._lines else None

    def show_all(self) -> None:
        """Show what is left."""
        while self._lines:
            self._show_first()

    def _show_what_is_complete(self) -> None:
        """Show lines that no rank can join any more, and what there is no room for."""
        reached = min(self._last.values(), default=self._begun)
        while self._lines and (self._lines[0].number <= reached or self._is_full):
            self._show_first()

    @property
    def _is_full(self) -> bool:
        return len(self._lines) > MOST[0] or self._size > MOST[1]

    def _show_first(self) -> None:
        line = self._lines.popleft()
        key = (line.stream, line.text)
        self._alike[key].popleft()
        if not self._alike[key]:
            del self._alike[key]
        self._size -= len(line.text)
        self._show(sorted(line.ranks), line.stream, line.text)
