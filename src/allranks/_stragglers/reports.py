"""A line on rank 0 now and then, on who holds the others up: where ALLRANKS_REPORT asks for it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from allranks._stragglers.merging import counted
from allranks._stragglers.stragglers import table
from allranks._system.words import tell
from allranks._transport import process_groups
from allranks._transport.headers import AFTERWARDS
from allranks._watch import torch_groups, waits

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._transport.process_groups import Members

FIRST, MOST = 16, waits.KEPT
"""After so many exchanges they are counted, then after twice as many, and so on up to this."""


class Reports:
    """Counts the calls of WORLD again and again, and tells on rank 0 who is slow."""

    def __init__(self, members: Members, group: dist.ProcessGroup, every: float) -> None:
        """Count nothing yet.

        Args:
            members: of WORLD.
            group: WORLD.
            every: seconds between two lines.
        """
        self._tells = members.rank == 0
        self._counted = counted(members, group)
        self._waits = waits.of_group(torch_groups.name_of(group))
        self._every = every
        self._next = time.monotonic() + every
        self._after = FIRST
        self._at: float = self._waits.made + FIRST
        self._told = 0

    def after_exchange(self) -> None:
        """Count, where enough exchanges were made. Collective: all ranks have made as many."""
        if self._waits.made >= self._at:
            self._at = math.inf  # To count takes exchanges, too.
            self._count()
            self._at = self._waits.made + self._after

    def _count(self) -> None:
        first = self._after < MOST
        due = self._counted.count_exchanges(due=self._tells and time.monotonic() >= self._next)
        if due or first:  # Torch takes milliseconds to tell.
            self._counted.count_recorded()
        self._after = min(MOST, 2 * self._after)
        if due:
            self._next = time.monotonic() + self._every
            self.tell()

    def tell(self) -> None:
        """Say on rank 0 who was slow, unless that was said of these calls."""
        found = table(self._counted.lateness, self._counted.hosts)
        if self._tells and found.calls > self._told:
            self._told = found.calls
            tell(found.sentence(found.ranks[0]) if found.ranks else str(found))


def begin(every: float) -> Reports | None:
    """Report on WORLD from now on, in a world of several ranks.

    Args:
        every: seconds between two lines.
    """
    members = process_groups.members_of("setup", None)
    if members.group is None or members.size == 1:
        return None
    reports = Reports(members, members.group, every)
    members.cache[AFTERWARDS] = reports.after_exchange
    return reports
