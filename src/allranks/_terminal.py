"""What is said to people, on the standard error stream."""

from __future__ import annotations

import sys

from allranks import _shown
from allranks._printable import printable


def tell(text: str) -> None:
    """One line to the user, on the standard error stream."""
    _shown.show(sys.stderr, f"allranks: {printable(text)}\n")
