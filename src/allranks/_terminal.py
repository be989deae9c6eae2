"""What is said to people, on the standard error stream."""

from __future__ import annotations

import sys
import unicodedata

from allranks import _shown


def tell(text: str) -> None:
    """One line to the user, on the standard error stream."""
    _shown.show(sys.stderr, f"allranks: {printable(text)}\n")


def printable(text: str) -> str:
    """A text that may come from elsewhere, with what a terminal would obey shown as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if _is_harmless(letter) else _escaped(letter) for letter in text)


def _is_harmless(letter: str) -> bool:
    return letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
