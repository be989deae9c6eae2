"""How long this rank was in each of its last exchanges: the rank that was there least came last.

All ranks leave an exchange at about the same moment. So these durations, each of one clock, tell
who came when, and no clocks of two hosts are compared.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from allranks._system.stacks import SourceLine

KEPT = 4096
"""Exchanges of each group that are remembered."""

RECENT = 256
"""Of how many the mean is told."""


class PastWaits(NamedTuple):
    """Exchanges one after the other.

    Attributes:
        seconds: how long this rank was in each, as a flat array.
        lines: of the program, which made them.
        since: when the first was made, in seconds since the epoch; 0.0 where there is none.
    """

    seconds: npt.NDArray[np.float64]
    lines: Sequence[SourceLine | None]
    since: float


class Waits:
    """Of one group. Each call notes itself here, so that this must cost little."""

    def __init__(self) -> None:
        """Remember none yet."""
        self.made = 0
        self._seconds = array("d", bytes(8 * KEPT))
        self._began = array("d", bytes(8 * KEPT))
        self._lines: list[SourceLine | None] = [None] * KEPT
        self._known: dict[SourceLine | None, SourceLine | None] = {}

    def note(self, began: float, ended: float, line: SourceLine | None) -> None:
        """Remember an exchange that is over.

        Args:
            began: when this rank came, in seconds since the epoch.
            ended: when it had the answer.
            line: of the program, which made it.
        """
        at = self.made % KEPT
        self._began[at] = began
        self._seconds[at] = ended - began
        # One object for all calls of a line: thousands that are kept cost a call 2 us.
        self._lines[at] = self._known.setdefault(line, line)
        self.made += 1

    def restart(self) -> None:
        """Forget those so far: they were not the program's."""
        self.made = 0

    def past(self, number: int) -> PastWaits:
        """Those from a number on, from 0, that are still remembered."""
        import numpy as np

        first, end = max(number, self.made - KEPT) % KEPT, self.made % KEPT
        around = first > end or self.made - number >= KEPT
        parts = (slice(first, KEPT), slice(0, end)) if around else (slice(first, end),)
        kept = np.frombuffer(self._seconds)
        seconds = np.concatenate([kept[part] for part in parts]).clip(0.0)  # A clock may be set.
        lines = [*chain.from_iterable(self._lines[part] for part in parts)]
        return PastWaits(seconds, lines, self._began[first] if lines else 0.0)

    def mean(self) -> float:
        """Seconds in an exchange, over the last ones."""
        last = self.past(max(0, self.made - RECENT)).seconds
        return float(last.mean()) if len(last) else 0.0


_by_group: dict[str, Waits] = {}


def of_group(name: str) -> Waits:
    """A group's, by the group's name."""
    return _by_group.setdefault(name, Waits())


def mean_of(name: str) -> float:
    """As ``Waits.mean``; 0.0 for a group that has made no exchange."""
    return _by_group[name].mean() if name in _by_group else 0.0


def forget_group(name: str) -> None:
    """The group was destroyed."""
    _by_group.pop(name, None)


def forget() -> None:
    """The groups are gone, and later ones may have their names."""
    _by_group.clear()
