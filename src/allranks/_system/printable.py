"""What comes from elsewhere, as text: without what a terminal would obey, and never an error."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """A text that may come from elsewhere, with what a terminal would obey shown as escapes."""
    if text.isprintable():
        return text
    return "".join(letter if _is_harmless(letter) else _escaped(letter) for letter in text)


def _is_harmless(letter: str) -> bool:
    return letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def brief_repr(thing: object) -> str:
    """The beginning of how a thing shows itself, or its type where it cannot."""
    try:
        return f"{thing!r:.60}"
    except Exception:  # noqa: BLE001 - whatever its own __repr__ does
        return f"a {type(thing).__name__}"
