"""From how long each rank was in each call to who came last: pure functions, and sums of them."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

LEAST = 1e-3
"""Seconds that the others must wait on average, for a rank to have come last: less is noise."""

ROW = np.dtype([("least", "f8"), ("rank", "i8"), ("total", "f8")])
"""Of one call: the shortest stay, whose it was, and the sum of all ranks' stays."""

HEAD = struct.Struct("<?dd")
"""Before the rows: what ``Stays`` tells of all of them."""


class Stays(NamedTuple):
    """How long ranks were in the same calls.

    Attributes:
        due: whether a report is due, as the first member says.
        seconds: how long ago the first call was made that is counted.
        least: from how many seconds on a rank has come last.
        rows: a ``ROW`` of each call.
    """

    due: bool
    seconds: float
    least: float
    rows: npt.NDArray[np.void]

    def packed(self) -> bytes:
        """As a body of a header."""
        return HEAD.pack(self.due, self.seconds, self.least) + self.rows.tobytes()

    @classmethod
    def unpacked(cls, body: bytes) -> Stays:
        """What ``packed`` has made a body."""
        due, seconds, least = HEAD.unpack_from(body)
        return cls(due, seconds, least, np.frombuffer(body, ROW, offset=HEAD.size))

    @classmethod
    def of_rank(cls, rank: int, stays: npt.ArrayLike) -> Stays:
        """Of one rank alone."""
        rows = np.empty(np.shape(stays), ROW)
        rows["least"] = rows["total"] = stays
        rows["rank"] = rank
        return cls(due=False, seconds=0.0, least=LEAST, rows=rows)


def folded(bodies: list[bytes]) -> list[bytes]:
    """The stays of several ranks as those of one, which stayed the least."""
    told = [Stays.unpacked(body) for body in bodies]
    rows = np.stack([one.rows for one in told])
    shortest = rows["least"].argmin(axis=0)
    first = rows[shortest, np.arange(rows.shape[1])]
    first["total"] = rows["total"].sum(axis=0)
    due, seconds = any(one.due for one in told), max(one.seconds for one in told)
    return [Stays(due, seconds, max(one.least for one in told), first).packed()]


@dataclass
class Lateness:
    """Who came last in the calls of a group that were counted.

    Attributes:
        size: how many ranks the group has.
        calls: how many calls were counted.
        seconds: how long ago the first was made, when the last were counted.
        last: how often each rank came last.
        waited: how long the others waited for each of these, on average, in all calls together.
        at: the same, by line of the program.
    """

    size: int
    calls: int = 0
    seconds: float = 0.0
    last: Counter[int] = field(default_factory=Counter)
    waited: dict[int, float] = field(default_factory=dict)
    at: dict[int, dict[object, float]] = field(default_factory=dict)

    def add(self, stays: Stays, lines: Sequence[object]) -> None:
        """Count calls.

        Args:
            stays: of all ranks.
            lines: of the program, on this rank.
        """
        rows: Any = stays.rows
        self.calls += len(rows)
        self.seconds = max(self.seconds, stays.seconds)
        others = rows["total"] - self.size * rows["least"]
        waits = others / max(1, self.size - 1)
        late = np.flatnonzero(waits >= stays.least)
        found = zip(rows["rank"][late].tolist(), late.tolist(), waits[late].tolist(), strict=True)
        for rank, at, seconds in found:
            self._count(rank, lines[at], seconds)

    def _count(self, rank: int, line: object, seconds: float) -> None:
        self.last[rank] += 1
        self.waited[rank] = self.waited.get(rank, 0.0) + seconds
        at = self.at.setdefault(rank, {})
        at[line] = at.get(line, 0.0) + seconds

    def line_of(self, rank: int) -> str:
        """Where the others waited longest for a rank that has come last."""
        at = self.at[rank]
        return str(max(at, key=lambda line: at[line]) or "")

    def worst(self, many: int) -> list[int]:
        """The ranks for which the others waited longest, and no more than so many: alike on all.

        Lines may differ between ranks, and so nothing here depends on them.
        """
        return sorted(self.waited, key=lambda rank: (-self.waited[rank], rank))[:many]
