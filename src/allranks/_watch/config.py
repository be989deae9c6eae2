"""What a watch is given: its store, its ranks, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._watch.parked_wait import can_park
from allranks._watch.store_client import PATIENCE

if TYPE_CHECKING:
    import socket

    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord

TICK = 1.0
"""Seconds between two looks at the store, and at how this rank fares."""

LOOKS = 512
"""How often a second all ranks together may look at the store."""

HURRY = 0.05
"""Seconds between two looks while ranks tell where they stand."""

ANSWERS = 5000
"""How many ranks' answers the store is sure to take in a second, on a slow host."""

NEIGHBOURS = 64
"""How many ranks of one host can tell in a second: they share its cores."""

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
        node_rank: this host's number.
        num_nodes: how many hosts there are.
        listener: where other ranks of this host may connect for the news, or None.
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
    node_rank: int = 0
    num_nodes: int = 1
    listener: socket.socket | None = None

    @property
    def parks(self) -> bool:
        """Whether the ranks wait for news in the store, and need not look."""
        return can_park(self.store)

    @property
    def hosts_to_wake(self) -> int:
        """How many hosts wait in the store for news."""
        return self.num_nodes if self.parks else 0

    @property
    def stall_limit(self) -> float:
        """Seconds in one collective after which the ranks are asked."""
        return min(self.stall_after, SHARE * self.timeout)

    @property
    def look_interval(self) -> float:
        """Seconds between two looks at a store in which nobody can wait."""
        return max(TICK, self.world_size / LOOKS)

    @property
    def hurried_interval(self) -> float:
        """Seconds between two such looks while ranks tell where they stand."""
        return max(HURRY, self.world_size / (10 * LOOKS))

    @property
    def news_delay(self) -> float:
        """Seconds after which all ranks have heard what was posted."""
        return TICK if self.parks else self.look_interval

    @property
    def answer_timeout(self) -> float:
        """Seconds that ranks have to tell where they stand: they hear, and take some to tell."""
        busy = len(self.local_peers) / NEIGHBOURS + self.world_size / ANSWERS
        return self.news_delay + 0.5 + busy

    @property
    def patience(self) -> float:
        """Seconds for one question to a store that all ranks use at this moment."""
        return max(PATIENCE, self.answer_timeout)

    @property
    def verdict_timeout(self) -> float:
        """Seconds that a rank has to tell what the ranks have told it: it awaits their answers."""
        return 2 * self.answer_timeout
