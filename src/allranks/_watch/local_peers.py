"""The ranks of this host: their deaths are seen at once, and how their processes fare."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from allranks._system import processes
from allranks._system.waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from allranks._rendezvous.record import RankRecord

ENDING = 3.0
"""Seconds in which a process may end that has closed a connection, where only that tells whose."""


class LocalPeers:
    """Monitors the processes of the other ranks of this host."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._records: dict[int, RankRecord] = {}
        self._ended: dict[int, int | None] = {}
        self._watched: dict[int, int] = {}
        self._caller, self._called = socket.socketpair()
        self._caller.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._poll = select.poll()
        self._poll.register(self._called, select.POLLIN)

    def add(self, records: Iterable[RankRecord]) -> None:
        """Watch over these ranks, whose processes this one can see."""
        for record in records:
            self._records[record.rank] = record
            try:
                descriptor = processes.opened(record.pid)
            except ProcessLookupError:
                self._ended[record.rank] = None
                continue
            if descriptor is not None:
                self._watched[descriptor] = record.rank
                self._poll.register(descriptor, select.POLLIN)

    def hear(self, source: socket.socket) -> None:
        """Let ``wait`` end where something comes in here, too."""
        self._poll.register(source, select.POLLIN)

    def unhear(self, source: socket.socket) -> None:
        """Forget a socket, before it is closed."""
        self._poll.unregister(source)

    def wait(self, seconds: float) -> None:
        """Block for so many seconds, until a process ends, a socket is heard, or ``wake``."""
        for descriptor, _ in self._poll.poll(seconds * 1000):
            if descriptor == self._called.fileno():
                self._called.recv(4096)
            if descriptor not in self._watched:
                continue
            rank = self._watched.pop(descriptor)
            self._ended[rank] = processes.how_it_ended(self._records[rank].pid, descriptor)
            self._poll.unregister(descriptor)
            os.close(descriptor)

    def wake(self) -> None:
        """Wake the sleeper, from another thread."""
        with suppress(OSError):  # It has been called often enough, or sleeps no more.
            self._caller.send(b"!")

    def ended(self) -> Iterable[tuple[RankRecord, int | None]]:
        """The ranks whose processes have ended since the last look, with their exit codes."""
        while self._ended:
            rank, code = self._ended.popitem()
            yield self._records[rank], code

    def watch_over(self, rank: int) -> bool:
        """Whether the end of a rank's process will be seen here."""
        return rank in self._watched.values() or rank in self._ended

    def condition(self, rank: int) -> str:
        """What can be said of a rank that does not answer; "" if nothing."""
        return processes.condition(self._records[rank].pid) if rank in self._records else ""

    def is_alive(self, rank: int) -> bool:
        """Whether a rank's process is seen to run, or to be stopped, on this host."""
        record = self._records.get(rank)
        return record is not None and not processes.is_gone(record.pid)

    def ended_soon(self, ranks: Sequence[int]) -> list[int]:
        """Of some ranks those whose processes are not seen to live, once one of them is not."""
        end = Deadline.after(ENDING)
        while not end.passed and all(map(self.is_alive, ranks)):
            self.wait(0.0)
            time.sleep(0.02)
        return [rank for rank in ranks if not self.is_alive(rank)]

    def held(self, told_by: int = -1) -> dict[int, str]:
        """The ranks whose processes are stopped or gone, and how.

        Args:
            told_by: nothing is told by a rank if one before it can tell; -1 tells in any case.
        """
        if not self.speaks(told_by):
            return {}
        held = [rank for rank, one in self._records.items() if processes.is_held(one.pid)]
        return {rank: self.condition(rank) for rank in held}

    def speaks(self, rank: int) -> bool:
        """Whether this rank is the first of its host whose process runs."""
        before = [one.pid for other, one in self._records.items() if other < rank]
        return all(processes.is_held(pid) or processes.is_gone(pid) for pid in before)

    def close(self) -> None:
        """Let go of all descriptors."""
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self._caller.close()
        self._called.close()
