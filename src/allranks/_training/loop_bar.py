"""A loop, shown on a terminal: a bar that is redrawn, and the meters below it."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from allranks._training.loop_lines import show_line

if TYPE_CHECKING:
    from allranks._training.loop_state import LoopState

PAUSE = 0.1
"""Seconds between two drawings, at least."""


class LoopBar:
    """Draws the bar while the loop runs; what the program prints meanwhile scrolls by above it.

    It is drawn by the loop itself, between two items, and no thread is needed. When the loop is
    left, in whatever way, its last state stays on the terminal.
    """

    def __init__(self, loop: LoopState) -> None:
        self._loop = loop
        console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._picture)
        self._drawn = time.monotonic()
        self._live.start(refresh=True)

    def show(self) -> None:
        """An item is done."""
        if time.monotonic() - self._drawn >= PAUSE:
            self._live.refresh()
            self._drawn = time.monotonic()

    def finish(self) -> None:
        """The loop has come to its end."""
        self.close()
        show_line(self._loop.summary())

    def close(self) -> None:
        """The loop was left, at its end or before: give the terminal back."""
        if self._live.is_started:
            sys.stdout.flush()  # What the program has printed of an unfinished line.
            self._live.stop()

    def _picture(self) -> Group:
        loop = self._loop
        table = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None):
            table.add_column(ratio=ratio, no_wrap=True)
        bar = "" if loop.length is None else ProgressBar(loop.length, loop.done)
        table.add_row(Text(loop.header), bar, Text("  ".join([loop.position(), *loop.costs()])))
        meters = loop.meters()
        return Group(table, Text(meters)) if meters else Group(table)
