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


def ranges(ranks: Iterable[int], most: int | None = None) -> str:
    """Ranks for people: ``0-3, 7``.

    Args:
        ranks: in any order.
        most: how many runs of ranks are listed; the ranks of others are counted.
    """
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    listed = ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in runs[:most])
    more = sum(high - low + 1 for low, high in runs[len(runs) if most is None else most :])
    return f"{listed} and {more} more" if more else listed


HOSTS = 16
"""Hosts that a message lists; more are counted."""


def by_host(places: Iterable[tuple[str, int]]) -> str:
    """Which ranks are on which hosts: ``0-7 on a; 8-15 on b``, of many hosts only the first.

    Args:
        places: the host, fit to be shown, and the rank of each process.
    """
    ranks_of: dict[str, list[int]] = {}
    for host, rank in sorted(places):
        ranks_of.setdefault(host, []).append(rank)
    told = [f"{ranges(ranks)} on {host}" for host, ranks in ranks_of.items()]
    if rest := list(ranks_of.values())[HOSTS:]:
        hosts, ranks = len(rest), sum(map(len, rest))
        told[HOSTS:] = [f"and {counted(hosts, 'more host')}, {counted(ranks, 'rank')}"]
    return "; ".join(told)


def counted(number: int, thing: str) -> str:
    """How many there are: ``1 rank``, ``896 ranks``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def size(count: float) -> str:
    """Bytes for people: ``4 B``, ``64 KiB``, ``5.333 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
