"""What a watch is given: its store, its ranks, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord

TICK = 1.0
"""Seconds between two looks at the store."""

LOOKS = 512
"""How often a second all ranks together may look at the store."""

HURRY = 0.05
"""Seconds between two looks while ranks tell where they stand."""

SHARE = 0.6
"""The share of the group's timeout after which a stall is looked into at the latest."""


@dataclass(frozen=True)
class WatchConfig:
    """What one rank's watch is given.

    Attributes:
        store: the store of the world, which the program uses too.
        me: this rank's record.
        local_peers: the records of the other ranks of this host.
        world_size: how many ranks there are.
        hosts_store: whether the store goes with this process.
        stall_after: seconds in one collective after which the ranks are asked.
        timeout: seconds after which a collective fails.
        rank_0: rank 0's record, or None on rank 0 itself.
        external_store: names the store where no rank serves it; else "".
    """

    store: dist.Store
    me: RankRecord
    local_peers: tuple[RankRecord, ...]
    world_size: int
    hosts_store: bool
    stall_after: float
    timeout: float
    rank_0: RankRecord | None = None
    external_store: str = ""

    @property
    def stall_limit(self) -> float:
        """Seconds in one collective after which the ranks are asked."""
        return min(self.stall_after, SHARE * self.timeout)

    @property
    def look_interval(self) -> float:
        """Seconds between two looks at the store."""
        return max(TICK, self.world_size / LOOKS)

    @property
    def hurried_interval(self) -> float:
        """Seconds between two looks while ranks tell where they stand."""
        return max(HURRY, self.world_size / (10 * LOOKS))

    @property
    def answer_timeout(self) -> float:
        """Seconds that ranks have to tell where they stand: they look, and take some to tell."""
        return self.look_interval + 0.5

    @property
    def verdict_timeout(self) -> float:
        """Seconds that a rank has to tell what the ranks have told it: it awaits their answers."""
        return 2 * self.answer_timeout
