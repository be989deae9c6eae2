"""What ranks write, shown line by line, each with its rank before it.

``allranks run`` passes the bytes on to its own terminal or pipe, with colours and progress bars;
``launch`` writes text to wherever its caller's ``sys.stdout`` leads, such as a notebook's cell.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, BinaryIO

from allranks._system import streams

if TYPE_CHECKING:
    from rich.console import Console

CURSOR_MOVES = re.compile(rb"\x1b\[\d*[A-HJK]")

UNSEEN = 4096
"""How many bytes are kept of what a quiet rank wrote."""

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


class CallerOutput:
    """Shows what ranks write where the caller's own output goes, a notebook's cell too."""

    def __init__(self) -> None:
        self._lines = streams.LineSplitter()

    def write(self, rank: int, stream: int, text: bytes) -> None:
        """Take what a rank wrote to a stream; an empty text ends the stream."""
        out = sys.stdout if stream == 1 else sys.stderr
        before = f"{rank}{streams.bar(out)} "
        for line in self._lines.split((rank, stream), text):
            streams.show(out, f"{before}{line.decode(errors='replace')}\n")


class RankOutput:
    """Passes on what the ranks write, line by line, each with its rank before it."""

    def __init__(self, ranks: int, *, quiet: bool = False) -> None:
        """Prepare the two streams.

        Args:
            ranks: how many ranks there are.
            quiet: pass on rank 0's output only.
        """
        self._quiet = quiet
        self._width = len(str(ranks - 1))
        self._lines = streams.LineSplitter()
        self._unseen: dict[tuple[int, int], bytes] = {}
        out, err = streams.console(stderr=False), streams.console(stderr=True)
        self._prefixes = {
            (rank, stream): self._prefix(rank, console)
            for stream, console in ((1, out), (2, err))
            for rank in range(ranks)
        }

    def _prefix(self, rank: int, console: Console) -> bytes:
        bar = streams.bar(console.file)
        with console.capture() as capture:
            style = COLOURS[rank % len(COLOURS)]
            console.print(f"{rank:>{self._width}}{bar} ", style=style, end="", highlight=False)
        return capture.get().encode(console.encoding)

    def write(self, rank: int, stream: int, text: bytes) -> None:
        """Take what a rank wrote to a stream; an empty text ends the stream."""
        key = (rank, stream)
        if self._quiet and rank > 0:
            self._unseen[key] = (self._unseen.get(key, b"") + text)[-UNSEEN:]
            return
        out = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
        for line in self._lines.split(key, text):
            self._put(out, key, line)
        rest = self._lines.unfinished[key]
        if b"\r" in rest:
            rest[:] = self._show_progress(out, bytes(rest))
        out.flush()

    def show_unseen(self, rank: int) -> None:
        """Show the end of what a quiet rank wrote to its standard error, since it failed."""
        for line in self._unseen.pop((rank, 2), b"").splitlines():
            self._put(sys.stderr.buffer, (rank, 2), line)
        sys.stderr.buffer.flush()

    def _put(self, out: BinaryIO, key: tuple[int, int], line: bytes) -> None:
        """A line that was redrawn, as by a progress bar, is shown as it stood at last."""
        *_, last = line.rstrip(b"\r\n").split(b"\r")
        text = CURSOR_MOVES.sub(b"", last)
        if last and not text:
            return
        clear = b"\r\x1b[2K" if out.isatty() else b""
        out.write(clear + self._prefixes[key] + text + b"\n")

    def _show_progress(self, out: BinaryIO, rest: bytes) -> bytes:
        """Redraw an unfinished line, on a terminal; nothing but its last state is kept."""
        before, carriage_return, last = rest.rpartition(b"\r")
        if out.isatty() and carriage_return and (last or before):
            out.write(b"\r" + (last or before.rpartition(b"\r")[2]))
        if not carriage_return:
            return rest
        return b"\r" + last if last else before.rpartition(b"\r")[2] + b"\r"
