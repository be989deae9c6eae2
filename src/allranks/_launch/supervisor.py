"""``allranks run``: import torch once, fork the ranks, watch over them to the end."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from allranks._launch.job_outcome import JobOutcome
from allranks._launch.pipes import Pipes
from allranks._launch.rank_process import FailureReport
from allranks._launch.received_signals import received_signals
from allranks._launch.session_reaper import SessionReaper
from allranks._system import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._launch.child_rank import ChildRank

TERM_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL for the ranks that are left when one has failed."""

CULPRIT_GRACE = 1.5
"""Seconds in which a rank that others have lost may still tell why, or be seen to have died."""

OUTER_TERM_GRACE = 30.0
"""Seconds for ranks to save their work when ``allranks run`` itself gets SIGTERM."""

CHUNK = 65536


class Supervisor:
    """Watches the ranks of a job: passes their output on, and ends all when one fails."""

    def __init__(
        self, write: Callable[[int, int, bytes], None], remind: Callable[[], float | None]
    ) -> None:
        """Prepare to watch.

        Args:
            write: takes a rank, the stream (1 or 2) and what the rank wrote to it; an empty
                text ends the stream.
            remind: is called before each wait, as ``Pipes.before_waiting`` says.
        """
        self._write = write
        self._ranks: list[ChildRank] = []
        self._pipes = Pipes()
        self._pipes.before_waiting(remind)
        self._signals: list[int] = []
        self._outside: int | None = None
        self._end_at: float | None = None
        self._kill_at: float | None = None
        self._ending: set[int] = set()

    def watch(self, begin: Callable[[SessionReaper], list[ChildRank]]) -> JobOutcome:
        """Start the ranks, and wait until all have ended.

        Args:
            begin: starts the ranks; signals are heard from before it is called.
        """
        with received_signals(self._pipes) as self._signals:
            reaper = SessionReaper()
            self._ranks = begin(reaper)
            for rank in self._ranks:
                for stream, pipe in enumerate(rank.pipes, start=1):
                    os.set_blocking(pipe, False)
                    self._pipes.listen(pipe, partial(self._read, rank, stream))
            while any(rank.status is None for rank in self._ranks):
                self._step(self._patience())
            self._end_sessions(reaper)
            self._drain()
        self._pipes.close()
        return self._outcome()

    def _patience(self) -> float | None:
        times = [at for at in (self._end_at, self._kill_at) if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _step(self, patience: float | None) -> None:
        """Read before looking who has ended: what a rank reports comes before its end."""
        self._pipes.step(patience)
        while self._signals:
            self._hear(self._signals.pop(0))
        for rank in self._ranks:
            self._look_after(rank)
        if self._end_at is not None and time.monotonic() >= self._end_at:
            self._end(signal.SIGTERM, TERM_GRACE)
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal_all(signal.SIGKILL)
            self._kill_at = None

    def _read(self, rank: ChildRank, stream: int, pipe: int) -> bool:
        try:
            text = os.read(pipe, CHUNK)
        except BlockingIOError:
            return True
        self._take(rank, stream, text)
        return bool(text)

    def _take(self, rank: ChildRank, stream: int, text: bytes) -> None:
        if stream == 3:
            self._hear_failure(rank, text)
        else:
            self._write(rank.rank, stream, text)

    def _hear_failure(self, rank: ChildRank, text: bytes) -> None:
        """Take a report, which ends with its line; the rank itself may take long to leave."""
        rank.report += text
        if rank.failure is None and rank.report.endswith(b"\n"):
            rank.failure = FailureReport(**json.loads(rank.report.splitlines()[0]))
            if rank.has_raised:
                self._one_failed(rank)

    def _one_failed(self, rank: ChildRank) -> None:
        """End all, but after a victim give the culprit time to be seen."""
        if self._ending:
            return
        if rank.is_victim:
            self._end_at = self._end_at or time.monotonic() + CULPRIT_GRACE
        else:
            self._end(signal.SIGTERM, TERM_GRACE, spared=rank)

    def _look_after(self, rank: ChildRank) -> None:
        """See whether a rank has ended; it is reaped with all others, when its session is over."""
        if rank.status is not None:
            return
        rank.status = processes.status_of_child(rank.pid)
        if rank.status is not None:
            rank.ended = time.monotonic()
        if rank.status:
            self._one_failed(rank)

    def _end(self, signum: int, grace: float, spared: ChildRank | None = None) -> None:
        """Ask the ranks that still run to end, and make them after a grace period."""
        self._end_at = None
        self._ending |= {r.rank for r in self._ranks if r.status is None and not r.is_leaving}
        self._signal_all(signum, spared)
        self._kill_at = time.monotonic() + grace

    def _hear(self, signum: int) -> None:
        if signum == signal.SIGCHLD:
            return
        again = self._outside is not None
        self._outside = signum
        if again:
            self._signal_all(signal.SIGKILL)
        else:
            self._end(signum, TERM_GRACE if signum == signal.SIGINT else OUTER_TERM_GRACE)

    def _signal_all(self, signum: int, spared: ChildRank | None = None) -> None:
        """Signal every rank's process group, and so what the rank has started."""
        for rank in self._ranks:
            gone = rank is spared or rank.status is not None or rank.is_leaving
            if gone and (rank is spared or signum != signal.SIGKILL):
                continue
            try:
                os.killpg(rank.pid, signum)
            except ProcessLookupError:
                if rank.status is None:  # It has not made its group yet.
                    with suppress(ProcessLookupError):
                        os.kill(rank.pid, signum)
            except PermissionError:
                pass  # macOS says so of a group of zombies.

    def _end_sessions(self, reaper: SessionReaper) -> None:
        """End what the ranks have left running, and reap them when nobody uses their ids any more.

        Args:
            reaper: is dismissed.
        """
        pids = [rank.pid for rank in self._ranks]
        processes.end_sessions(pids)
        reaper.dismiss()
        for pid in pids:
            processes.reap(pid)

    def _drain(self) -> None:
        """Read what is left in pipes, and end all streams."""
        self._pipes.drain()
        for rank in self._ranks:
            for stream in (1, 2, 3):
                self._take(rank, stream, b"")

    def _outcome(self) -> JobOutcome:
        failed = [rank for rank in self._ranks if rank.status]
        by_itself = [r for r in failed if r.rank not in self._ending or r.has_raised]
        # A victim may tell of its end before the culprit does.
        ordered = sorted(by_itself, key=lambda rank: (rank.is_victim, rank.failed_at))
        first = ordered[0] if ordered else None
        done = tuple(rank for rank in self._ranks if rank.status == 0)
        return JobOutcome(first, tuple(ordered[1:]), done, self._outside)
