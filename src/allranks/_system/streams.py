"""What is shown to people: on terminals of any encoding, and where there is no stream at all."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Hashable

    from rich.console import Console

BAR = "│"
"""Between a rank and what it wrote."""

LONGEST = 1 << 20
"""Bytes of a line that are kept for its end to come."""


def bar(stream: IO[str] | None) -> str:
    """What stands between a rank and its text, on this stream."""
    try:
        BAR.encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "|"
    return BAR


def show(stream: TextIO | None, text: str) -> None:
    """Write a text, with escapes for what the stream cannot encode; nobody fails for it."""
    with suppress(OSError, ValueError):  # A pipe that nobody reads; a stream that was closed.
        if stream is None:
            return
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def on_a_terminal() -> bool:
    """Whether one of the standard streams is a terminal."""
    return any(os.isatty(number) for number in range(3) if is_stream(number))


def escape_what_cannot_be_encoded() -> None:
    """From now on, standard streams take every text, as ``show`` does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def opened_anew(stream: TextIO) -> io.TextIOWrapper:
    """A standard stream whose descriptor has become another file's, by lines.

    The old one remembers whether its file had a place in it, and would ask a pipe for that.
    """
    stream.flush()
    raw = io.FileIO(stream.fileno(), "w", closefd=False)
    raw.name = stream.name
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )


def open_closed_streams() -> None:
    """Let standard streams that are closed stand for nothing, before a file takes their number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if not is_stream(number):
            nothing = os.open(os.devnull, os.O_RDWR)  # It takes the lowest number that is free.
            os.set_inheritable(nothing, True)  # noqa: FBT003 - the standard library's signature
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - kept


def is_stream(number: int) -> bool:
    """Whether a descriptor is a stream that was given to us: a file of our own is not inherited."""
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


class LineSplitter:
    """Splits what several write into lines, in memory of a bounded size for each.

    Attributes:
        unfinished: the beginning of a line whose end is still to come, by writer.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.unfinished: dict[Hashable, bytearray] = {}

    def split(self, writer: Hashable, text: bytes) -> list[bytes]:
        """The lines that a text ends, without their ends; one that is too long comes in pieces.

        Args:
            writer: who wrote it.
            text: what it wrote; an empty text ends its last line.
        """
        first, *others = text.split(b"\n")
        rest = self.unfinished.setdefault(writer, bytearray())
        rest += first
        lines = []
        if others:
            lines = [bytes(rest), *others[:-1]]
            rest[:] = others[-1]
        if rest and (not text or len(rest) > LONGEST):
            lines.append(bytes(rest))
            rest.clear()
        return lines


def console(*, stderr: bool) -> Console:
    """A console of rich's that shows texts as they are: nothing in them is markup."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
