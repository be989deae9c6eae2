"""Get from all ranks who came last in the calls since the last time. Collective."""

from __future__ import annotations

import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, cast

from allranks._stragglers.lateness import LEAST, Lateness, Stays, folded
from allranks._system import stacks
from allranks._system.typed_json import parsed, written
from allranks._transport.headers import Header, exchange_and_combine
from allranks._watch import flight_recorder, torch_groups, waits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch.distributed as dist

    from allranks._transport.headers import Fold
    from allranks._transport.process_groups import Members
    from allranks._watch.flight_recorder import RecordedCollective

LISTED = 16
"""How many ranks are listed, at most."""

NOISE = 2.0
"""Of the time by which ranks differ in when an answer came: as late a rank must be, to be last."""

PAIR = struct.Struct("<dd")


class Counted:
    """What was counted of a group on this rank; the same on all ranks, but for the lines."""

    def __init__(self, members: Members, group: dist.ProcessGroup) -> None:
        """Count nothing yet.

        Args:
            members: of the group.
            group: the group.
        """
        self._members = members
        self._group = torch_groups.name_of(group)
        self._recorder = "nccl" if "nccl" in torch_groups.backends(group).values() else "fr"
        self._waits = waits.of_group(self._group)
        self._since = time.time()
        self._exchanges = 0
        self._recorded = 0
        self.lateness = Lateness(members.size)
        self.hosts: dict[int, str] = {}

    def count_exchanges(self, *, due: bool = False) -> bool:
        """Count what allranks has exchanged since the last time. Collective.

        Args:
            due: whether a report is due, on any rank.

        Returns:
            Whether it is, on all.
        """
        past = self._waits.past(self._exchanges)
        mine = Stays.of_rank(self._rank, past.seconds)._replace(due=due)
        told = self._count(f"exchanges up to #{self._waits.made}", mine, past.since, past.lines)
        return told.due

    def count_recorded(self) -> None:
        """Count what torch has recorded since the last time, calls of DDP among it. Collective."""
        calls = {call.number: call for call in self._recorded_calls()}
        numbers, anchor, noise = self._anchored(calls)
        new = [calls[number] for number in numbers]
        mine = Stays.of_rank(self._rank, [anchor - call.at for call in new])
        mine = mine._replace(least=max(LEAST, NOISE * noise))
        since = new[0].at if new else 0.0
        self._count(f"calls of torch in {numbers}", mine, since, [call.line for call in new])
        self._recorded = max(self._recorded, numbers.stop - 1)

    @property
    def _rank(self) -> int:
        return self._members.ranks[self._members.rank]

    def _count(self, what: str, mine: Stays, since: float, lines: Sequence[object]) -> Stays:
        """Count calls of all ranks."""
        self._since = min(self._since, since or self._since)
        mine = mine._replace(seconds=time.time() - self._since)
        header = Header(f"stragglers: {what}", mine.packed())
        told = Stays.unpacked(self._agreed(header, folded))
        self.lateness.add(told, lines)
        self._name_hosts()
        self._exchanges = self._waits.made  # Those of the count itself are left out.
        return told

    def _name_hosts(self) -> None:
        """Get the hosts of the ranks that will be listed."""
        unknown = {*self.lateness.worst(LISTED)} - self.hosts.keys()
        if unknown:
            mine = {self._rank: socket.gethostname()} if self._rank in unknown else {}
            header = Header("stragglers: hosts", written(mine).encode())
            told = self._agreed(header, _joined)
            self.hosts |= parsed(dict[int, str], told)

    def _recorded_calls(self) -> list[RecordedCollective]:
        """Torch's calls on the group; none while a thread makes one: then it must not be read."""
        if flight_recorder.why_blind() or stacks.others_in_calls():
            return []
        seen = flight_recorder.remembered().collectives
        here = [one for one in seen if one.group == self._group and not one.is_exchange]
        return [one for one in here if one.group_id.startswith(self._recorder)]

    def _anchored(self, calls: Mapping[int, object]) -> tuple[range, float, float]:
        """The numbers of calls that all ranks know, one moment for all ranks, and how exact it is.

        All ranks have the answer of an exchange at about the same moment. Each counts back from
        there by its own clock.
        """
        first, last = min(calls, default=1), max(calls, default=0)
        low, high = self._greatest(max(first, self._recorded + 1), -last)
        anchor = time.time()
        self._greatest(0.0, 0.0)
        between = time.time() - anchor
        most, least = self._greatest(between, -between)
        return range(int(low), int(-high) + 1), anchor, most + least

    def _greatest(self, one: float, other: float) -> tuple[float, float]:
        header = Header("stragglers: a moment for all", PAIR.pack(one, other))
        greatest: tuple[float, float] = PAIR.unpack(self._agreed(header, _larger))
        return greatest

    def _agreed(self, header: Header, fold: Fold) -> bytes:
        """The one body that comes of those of all ranks."""
        return exchange_and_combine(self._members, header, partial(_only, fold), fold=fold)


def counted(members: Members, group: dist.ProcessGroup) -> Counted:
    """What was counted of a group of several ranks."""
    known = members.cache.get("stragglers")
    if known is None:
        known = members.cache["stragglers"] = Counted(members, group)
    return cast("Counted", known)


def _only(fold: Fold, bodies: list[bytes]) -> bytes:
    return fold(bodies)[0]


def _joined(bodies: list[bytes]) -> list[bytes]:
    joined = {key: value for body in bodies for key, value in parsed(dict[int, str], body).items()}
    return [written(joined).encode()]


def _larger(bodies: list[bytes]) -> list[bytes]:
    pairs = zip(*map(PAIR.unpack, bodies), strict=True)
    return [PAIR.pack(*map(max, pairs))]
