"""What a rank tells of itself for ``allranks dump``, beside where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

TOLD = 100
"""How many of its last calls a rank tells."""


@dataclass(frozen=True)
class PastCall:
    """A collective that a rank has made, or is in.

    Attributes:
        group: the group's name, the same on all its ranks.
        number: its sequence number in the group; 0 where that is not known.
        op: its name.
        data: dtypes and shapes.
        line: the program's line, or "".
        at: when the rank came, in seconds since the epoch by its own clock.
        ended: when an exchange had its answer, by the same clock; 0.0 of torch's own calls.
        over: whether it has ended.
    """

    group: str
    number: int
    op: str
    data: str
    line: str
    at: float
    ended: float
    over: bool


@dataclass(frozen=True)
class RankDetail:
    """What one rank tells.

    Attributes:
        rank: the rank.
        calls: its last collectives, oldest first.
        members: the ranks of the group on which it waits; none where that is WORLD.
        threads: where each thread stands, innermost first.
    """

    rank: int
    calls: tuple[PastCall, ...] = ()
    members: tuple[int, ...] = ()
    threads: dict[str, list[str]] = field(default_factory=dict)
