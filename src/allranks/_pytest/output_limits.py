"""What is kept of a long output: its beginning and its end, with a line between that counts."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

OF_FAILED = 512 * 1024
"""Bytes that are kept of each output of a rank."""

OF_PASSED = 32 * 1024
"""Bytes that are kept of it where the test passed: pytest holds them to the session's end."""

CHUNK = 1024 * 1024

GAP = re.compile(rb"\[(\d+) bytes are left out here\]\n")


class OutputEnds:
    """The two ends of what is written, however much it is."""

    def __init__(self, limit: int = OF_FAILED) -> None:
        """Keep so many bytes, a quarter of them from the beginning."""
        self._first, self._last = limit // 4, limit - limit // 4
        self._head, self._tail = bytearray(), bytearray()
        self._missing = 0

    def write(self, text: bytes) -> None:
        """Take more."""
        room = self._first - len(self._head)
        self._head += text[:room]
        self._tail += text[room:]
        if len(self._tail) > 2 * self._last:
            self._drop(len(self._tail) - self._last)

    def _drop(self, size: int) -> None:
        line_end = self._tail.find(b"\n", size, size + self._last // 2)
        size = line_end + 1 or size  # Whole lines are shown, where there are lines.
        dropped = bytes(self._tail[:size])
        gaps = GAP.findall(dropped)
        self._missing += len(GAP.sub(b"", dropped)) + sum(map(int, gaps))
        del self._tail[:size]

    def text(self) -> str:
        """What is kept, for people."""
        if len(self._tail) > self._last:
            self._drop(len(self._tail) - self._last)
        head, tail = bytes(self._head), bytes(self._tail)
        if not self._missing:
            return (head + tail).decode(errors="replace")
        first = head[: head.rfind(b"\n") + 1] or head + b"\n"
        missing = self._missing + len(head) - len(head[: len(first)])
        gap = b"[%d bytes are left out here]\n" % missing
        return (first + gap + tail).decode(errors="replace")


def shortened(text: str, limit: int = OF_FAILED) -> str:
    """A text, or its two ends where it is longer than so many bytes."""
    if len(text) <= limit // 4:
        return text
    ends = OutputEnds(limit)
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return text
    ends.write(encoded)
    return ends.text()


def ends_of(path: Path) -> str:
    """A file's text, or its two ends."""
    ends = OutputEnds()
    with path.open("rb") as file:
        for chunk in iter(functools.partial(file.read, CHUNK), b""):
            ends.write(chunk)
    return ends.text()
