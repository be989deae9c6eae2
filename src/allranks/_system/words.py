"""What is said to people, on the standard error stream."""

from __future__ import annotations

import sys

from allranks._system import streams
from allranks._system.printable import printable


def tell(text: str) -> None:
    """One line to the user, on the standard error stream."""
    streams.show(sys.stderr, f"allranks: {printable(text)}\n")
