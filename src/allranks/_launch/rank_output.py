"""What ranks write, shown line by line, each with its rank before it; alike lines once.

``allranks run`` passes the bytes on to its own terminal or pipe, with colours and progress bars;
``launch`` writes text to wherever its caller's ``sys.stdout`` leads, such as a notebook's cell.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import BinaryIO

from allranks._launch.folded_lines import FoldedLines
from allranks._system import streams
from allranks._system.words import ranges

CURSOR_MOVES = re.compile(rb"\x1b\[\d*[A-HJK]")

UNSEEN = 4096
"""How many bytes are kept of what a quiet rank wrote."""

RUNS = 3
"""Before a line, so many runs of ranks are listed; others are counted."""

PREFIXES = 256
"""What stands before lines, of so many sets of ranks, is remembered."""

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


class CallerOutput:
    """Shows what ranks write where the caller's own output goes, a notebook's cell too."""

    def __init__(self, ranks: int, *, fold: bool = True) -> None:
        """Prepare to show.

        Args:
            ranks: how many ranks there are.
            fold: show once what several ranks write alike.
        """
        self._lines = streams.LineSplitter()
        self._folded = FoldedLines(ranks, self._show, fold=fold)
        self.show_due, self.show_all = self._folded.show_due, self._folded.show_all

    def write(self, rank: int, stream: int, text: bytes) -> None:
        """Take what a rank wrote to a stream; an empty text ends the stream."""
        for line in self._lines.split((rank, stream), text):
            self._folded.add(rank, stream, line)
        if not text:
            self._folded.end(rank, stream)

    def _show(self, ranks: list[int], stream: int, line: bytes) -> None:
        out = sys.stdout if stream == 1 else sys.stderr
        text = line.decode(errors="replace")
        streams.show(out, f"{ranges(ranks, RUNS)}{streams.bar(out)} {text}\n")


class RankOutput:
    """Passes on what the ranks write, line by line, each with its ranks before it."""

    def __init__(self, ranks: int, *, quiet: bool = False, fold: bool = True) -> None:
        """Prepare the two streams.

        Args:
            ranks: how many ranks there are.
            quiet: pass on rank 0's output only.
            fold: show once what several ranks write alike.
        """
        self._quiet = quiet
        self._width = len(str(ranks - 1))
        self._lines = streams.LineSplitter()
        self._unseen: dict[tuple[int, int], bytes] = {}
        self._consoles = [streams.console(stderr=stderr) for stderr in (False, True)]
        self._folded = FoldedLines(ranks, self._show, fold=fold and not quiet)
        self._prefix = lru_cache(maxsize=PREFIXES)(self._made_prefix)

    def _made_prefix(self, ranks: tuple[int, ...], stream: int) -> bytes:
        console = self._consoles[stream - 1]
        told = f"{ranges(ranks, RUNS):>{self._width}}{streams.bar(console.file)} "
        with console.capture() as capture:
            console.print(told, style=COLOURS[ranks[0] % len(COLOURS)], end="", highlight=False)
        return capture.get().encode(console.encoding)

    def write(self, rank: int, stream: int, text: bytes) -> None:
        """Take what a rank wrote to a stream; an empty text ends the stream."""
        key = (rank, stream)
        if self._quiet and rank > 0:
            self._unseen[key] = (self._unseen.get(key, b"") + text)[-UNSEEN:]
            return
        for line in self._lines.split(key, text):
            self._take(rank, stream, line)
        rest = self._lines.unfinished[key]
        if b"\r" in rest:
            self._folded.show_all_of(rank)
            rest[:] = self._show_progress(_buffer(stream), bytes(rest))
        if not text:
            self._folded.end(rank, stream)
        self._flush()

    def _take(self, rank: int, stream: int, line: bytes) -> None:
        """A line that was redrawn, as by a progress bar, is shown as it stood at last, at once."""
        *before, last = line.rstrip(b"\r\n").split(b"\r")
        text = CURSOR_MOVES.sub(b"", last)
        if last and not text:
            return
        self._folded.add(rank, stream, text)
        if before:
            self._folded.show_all_of(rank)

    def show_due(self) -> float | None:
        """Show what has waited long enough; the seconds after which more has, if any waits."""
        due = self._folded.show_due()
        self._flush()
        return due

    def show_all(self) -> None:
        """Show what still waits."""
        self._folded.show_all()
        self._flush()

    def show_unseen(self, rank: int) -> None:
        """Show the end of what a quiet rank wrote to its standard error, since it failed."""
        for line in self._unseen.pop((rank, 2), b"").splitlines():
            self._take(rank, 2, line)
        self._flush()

    def _show(self, ranks: list[int], stream: int, text: bytes) -> None:
        out = _buffer(stream)
        clear = b"\r\x1b[2K" if out.isatty() else b""
        out.write(clear + self._prefix(tuple(ranks), stream) + text + b"\n")

    def _flush(self) -> None:
        for stream in (1, 2):
            _buffer(stream).flush()

    def _show_progress(self, out: BinaryIO, rest: bytes) -> bytes:
        """Redraw an unfinished line, on a terminal; nothing but its last state is kept."""
        before, carriage_return, last = rest.rpartition(b"\r")
        if out.isatty() and carriage_return and (last or before):
            out.write(b"\r" + (last or before.rpartition(b"\r")[2]))
        if not carriage_return:
            return rest
        return b"\r" + last if last else before.rpartition(b"\r")[2] + b"\r"


def _buffer(stream: int) -> BinaryIO:
    return (sys.stdout if stream == 1 else sys.stderr).buffer
