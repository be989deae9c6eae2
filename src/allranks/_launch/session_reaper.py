"""A small process beside ``allranks run``, which ends what ranks have forked if it is killed.

On Linux the kernel ends ranks with their parent (PR_SET_PDEATHSIG). Their own children cannot rely
on that: the signal comes when the thread that forked them ends, which may be earlier.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from allranks._launch.template import HEARD
from allranks._system import processes

OVER = b"over\n"
"""The last line of a parent whose ranks have ended: soon their ids may be those of others."""


class SessionReaper:
    """The process, as the parent of the ranks sees it."""

    def __init__(self) -> None:
        """Fork it, before the first rank."""
        heard, self._line = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._line)
            _keep_watch(heard)
        os.close(heard)

    def tell(self, rank: int) -> None:
        """Tell it of a rank.

        Args:
            rank: the process id, which is its session's too.
        """
        with suppress(BrokenPipeError):  # Somebody has killed it.
            os.write(self._line, b"%d\n" % rank)

    def forget(self) -> None:
        """In a rank: let go of the line, whose end is the parent's end."""
        os.close(self._line)

    def dismiss(self) -> None:
        """The job is over, and its sessions with it: nothing is left to be ended.

        To be called before the ranks are reaped.
        """
        with suppress(BrokenPipeError):
            os.write(self._line, OVER)
        os.close(self._line)
        processes.reap(self._pid)


def _keep_watch(heard: int) -> None:
    """Wait for the parent's end; where it has not dismissed us, end the ranks' sessions."""
    try:
        os.setsid()  # So that what a terminal, or a shell, sends to the job is not sent here.
        for signum in HEARD:
            signal.signal(signum, signal.SIG_IGN)
        with os.fdopen(heard, "rb") as line:
            ranks = []
            for told in line:
                if told == OVER:
                    return
                ranks.append(int(told))
        processes.end_sessions(ranks)
    finally:
        os._exit(0)
