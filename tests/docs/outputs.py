"""Whether a command printed what a page says, but for what differs from run to run."""

from __future__ import annotations

import re
import socket

HOST = "node07"
"""What this host is called in the documentation."""

ALWAYS = {
    "gap": (r"\s*\.\.\.\s*", r"[\s\S]*?"),
    "id": (r"0x[0-9a-f]+|[0-9a-f]{32}", r"(0x)?[0-9a-f]+"),
    "pid": (r"\(pid \d+", r"\(pid \d+"),
    "rule": (r"[=_─]{5,}", r"[=_─]+"),
    "space": (r"\s+", r"\s+"),
}
"""What may always differ: what is left out, names of processes, and the width of a terminal.

Each as it is found in a page, and as it is found in an output.
"""

SPAN = r"\d[\d.,]*( to \d[\d.,]*)?( ?(us|µs|ms|s|min|h)\b)?"

NUMBERS = {"number": (SPAN, SPAN)}
"""What may differ where a page says so: times, sizes, counts."""


def pattern_of(shown: str, numbers: bool) -> re.Pattern[str]:
    """What the real output must be.

    Args:
        shown: the output as a page has it.
        numbers: whether numbers may differ.
    """
    varies = {**ALWAYS, **(NUMBERS if numbers else {})}
    found_by = re.compile("|".join(f"(?P<{name}>{shape})" for name, (shape, _) in varies.items()))
    parts, at = [], 0
    for found in found_by.finditer(shown):
        parts += [re.escape(shown[at : found.start()]), varies[found.lastgroup][1]]
        at = found.end()
    return re.compile("".join([*parts, re.escape(shown[at:])]))


def matches(shown: str, real: str, numbers: bool = False) -> bool:
    """Whether an output is as a page shows it."""
    told = real.replace(socket.gethostname(), HOST)
    return bool(pattern_of(shown.strip(), numbers).fullmatch(told.strip()))
