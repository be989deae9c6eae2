"""Ends a process whose program is blocked in torch, deaf to another rank's failure."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from allranks._system import stacks, streams
from allranks._system.waiting import Deadline
from allranks._system.words import tell
from allranks._watch import failures

if TYPE_CHECKING:
    from allranks._watch.config import WatchConfig
    from allranks._watch.failures import Failure
    from allranks._watch.progress import CollectiveProgress
    from allranks._watch.status_inquiry import StatusInquiry

SPEAK = 2.0
"""Seconds in which the program may hear of a failure by itself before the watch says it."""

GRACE = 10.0
"""Seconds from then to the end of a rank that cannot hear of it, blocked in a call of torch's."""


class BlockedProgram:
    """How long this rank's program has stood at one line since a failure."""

    def __init__(
        self, config: WatchConfig, inquiry: StatusInquiry, progress: CollectiveProgress
    ) -> None:
        """Nothing has failed yet.

        Args:
            config: what the watch was given.
            inquiry: keeps where this rank stands.
            progress: whether this rank's collectives go on.
        """
        self._config = config
        self._inquiry = inquiry
        self._progress = progress
        self._failure: Failure | None = None
        self._lines: list[stacks.SourceLine] = []
        self._end = Deadline.after(0.0)

    def begin(self, failure: Failure) -> None:
        """Another rank has failed: from now on the program has some seconds to hear of it."""
        self._failure, self._end = failure, Deadline.after(SPEAK)

    def exit_if_blocked(self) -> None:
        """Say that a rank has failed, then end this process, if its program does not hear of it."""
        if self._failure is None or failures.program_knows or not self._end.passed:
            return
        before, lines = self._lines, stacks.main_thread()
        if not before:
            tell(f"{self._config.me}: {self._failure}; {self._failure.age:.0f} s ago")
        if not before or before != lines or self._progress.stuck() is None:
            self._lines, self._end = lines, Deadline.after(GRACE)
            return
        self._leave(lines)

    def _leave(self, lines: list[stacks.SourceLine]) -> None:
        tell(
            f"{self._config.me} is blocked in a collective at {stacks.of_the_program(lines)}, "
            f"which cannot complete; leaving. First failure: {self._failure}"
        )
        self._inquiry.keep(f"left, blocked, after {self._failure}")
        for stream in (sys.stdout, sys.stderr):
            streams.show(stream, "")  # What is written there comes out before we leave.
        os._exit(1)
