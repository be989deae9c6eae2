"""What is said to people: on the standard error stream, and how ranks are listed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from allranks._system import streams
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def tell(text: str) -> None:
    """One line to the user, on the standard error stream."""
    streams.show(sys.stderr, f"allranks: {printable(text)}\n")


def named(ranks: Sequence[int]) -> str:
    """Ranks in a sentence: ``rank 7``, ``ranks 0-3, 7``."""
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {ranges(ranks)}"


def ranges(ranks: Iterable[int]) -> str:
    """Ranks for people: ``0-3, 7``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in runs)
