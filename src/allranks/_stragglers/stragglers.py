"""``stragglers``: which ranks come last, how often, and what it costs the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._stragglers.merging import LISTED, counted
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._stragglers.lateness import Lateness
    from allranks._transport.process_groups import Group


@dataclass(frozen=True)
class Straggler:
    """A rank that has come last.

    Attributes:
        rank: its global rank.
        host: its host.
        last: in how many calls it came last, by a millisecond or more.
        waited: seconds that the others waited for it, on average, in all these calls together.
        line: of the program, where they waited for it longest, or "".
    """

    rank: int
    host: str
    last: int
    waited: float
    line: str


@dataclass(frozen=True)
class Stragglers:
    """Who came last in the calls of a group.

    Attributes:
        calls: how many calls were counted, since the group is up.
        seconds: how long ago the first of them was made.
        ranks: those that came last, the costliest first; 16 of them at most.
    """

    calls: int
    seconds: float
    ranks: tuple[Straggler, ...] = ()

    def __str__(self) -> str:
        """One line, or a table of a line for each rank."""
        if not self.ranks:
            return f"no rank holds the others up, in {self.calls:,} calls"
        return "\n".join(self.sentence(one) for one in self.ranks)

    def sentence(self, one: Straggler) -> str:
        """What is to be said of a rank."""
        where = f", mostly at {one.line}" if one.line else ""
        return (
            f"rank {one.rank} on {one.host} came last in {one.last / self.calls:.0%} of "
            f"{self.calls:,} calls; the others waited {one.waited / self.seconds:.0%} of the time "
            f"({one.waited:.1f} s) for it{where}"
        )


@outside_graphs
def stragglers(group: Group | None = None) -> Stragglers:
    """Tell which ranks come last, so that the others wait for them. Collective.

    It counts the calls of allranks on the group in which ranks tell each other something (all but
    bare tensors), and those that torch has recorded: bare tensors, DDP's and FSDP's. Of calls that
    nobody has counted yet, the last 4,096 and the last 500 are known. A rank comes last where
    the others wait for it for a millisecond or more, on average. No clocks of two ranks are
    compared: each rank tells how long it was in a call, by its own clock.

    Args:
        group: whose calls; None means WORLD.

    Returns:
        What was counted since the group is up, the same on all ranks; as text, a line for each
        rank. In a world of one, nothing.

    Raises:
        CollectiveError: this rank is not in the group.
    """
    members = process_groups.members_of("stragglers", group)
    if members.group is None or members.size == 1:
        return Stragglers(0, 0.0)
    known = counted(members, members.group)
    known.count_exchanges()
    known.count_recorded()
    return table(known.lateness, known.hosts)


def table(lateness: Lateness, hosts: Mapping[int, str]) -> Stragglers:
    """What was counted, with the hosts of the ranks."""
    rows = [
        Straggler(
            rank,
            hosts.get(rank, ""),
            lateness.last[rank],
            lateness.waited[rank],
            lateness.line_of(rank),
        )
        for rank in lateness.worst(LISTED)
    ]
    return Stragglers(lateness.calls, lateness.seconds, tuple(rows))
