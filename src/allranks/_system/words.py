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
    return ", ".join(map(_shown, _runs(ranks)))


def few(ranks: Sequence[int], longest: int = 20) -> str:
    """Ranks in little space: ``0-3, 7``, or, of more, ``0-3, 7 and 12 more``.

    Args:
        ranks: which ranks.
        longest: the characters that the ranks themselves may take.
    """
    shown, seen = "", 0
    for run in _runs(ranks):
        longer = f"{shown}, {_shown(run)}" if shown else _shown(run)
        if len(longer) > longest:
            return f"{shown} and {len(ranks) - seen} more"
        shown, seen = longer, seen + len(run)
    return shown


def _runs(ranks: Iterable[int]) -> list[range]:
    """The ranks as runs of one after the other."""
    runs: list[range] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1].stop:
            runs[-1] = range(runs[-1].start, rank + 1)
        else:
            runs.append(range(rank, rank + 1))
    return runs


def _shown(run: range) -> str:
    return f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}"


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
