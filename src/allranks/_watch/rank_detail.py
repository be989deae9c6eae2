"""What a rank tells of itself for ``allranks dump``, beside where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from allranks._watch.diagnosis import ReportedCollective

TOLD, TOLD_BY_ALL = 100, 100_000
"""How many of its last calls a rank tells, and all ranks together, at most."""


def told_calls(world_size: int) -> int:
    """How many of its last calls each rank of a world tells."""
    return min(TOLD, TOLD_BY_ALL // world_size)


@dataclass(frozen=True)
class PastCall:
    """A collective that a rank has made, or is in.

    Attributes:
        call: the collective.
        at: when the rank came, in seconds since the epoch by its own clock.
        ended: when an exchange had its answer, by the same clock; 0.0 of torch's own calls.
        over: whether it has ended.
    """

    call: ReportedCollective
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
