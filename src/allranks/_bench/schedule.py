"""In which order pairs of ranks are measured, so that no host is in two pairs at a time.

Two pairs that share a host would share its network card or its cores, and each would look slow.
Pairs of other hosts do not disturb each other, and go side by side: first every host measures the
pairs within itself, one after another; then hosts meet in the rounds of a tournament, and in a
round each two that meet measure their pairs, one after another. So a world of many hosts needs
hardly more steps than two of its hosts would, times the number of hosts.
"""

from __future__ import annotations

from itertools import combinations, product, zip_longest
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

Step: TypeAlias = list[tuple[int, int]]
"""Pairs of ranks that are measured at the same time."""


def steps(hosts: Sequence[Sequence[int]]) -> Iterator[Step]:
    """Every pair of ranks once.

    Args:
        hosts: the ranks of each host.
    """
    yield from _side_by_side(combinations(ranks, 2) for ranks in hosts)
    for meeting in rounds(hosts):
        yield from _side_by_side(product(one, other) for one, other in meeting)


def rounds(players: Sequence[T]) -> Iterator[list[tuple[T, T]]]:
    """A tournament: in a round each meets one other at most, and after all of them every other.

    One stays in its seat, and the others move on by one seat each round; those that sit opposite
    meet. Among an odd number, one seat is empty.
    """
    seats: list[T | None] = [*players, *([None] if len(players) % 2 else [])]
    half = len(seats) // 2
    for _ in range(len(seats) - 1):
        opposite = zip(seats[:half], reversed(seats[half:]), strict=True)
        yield [(one, other) for one, other in opposite if one is not None and other is not None]
        seats.insert(1, seats.pop())


def number_of_steps(hosts: Sequence[Sequence[int]]) -> int:
    """How many steps there are; at most so many, where hosts have different numbers of ranks."""
    most = max(map(len, hosts))
    meetings = len(hosts) - 1 + len(hosts) % 2 if len(hosts) > 1 else 0
    return most * (most - 1) // 2 + meetings * most**2


def thinned(hosts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """The first ranks of each host, as many of them as that number of steps allows.

    Args:
        hosts: the ranks of each host.
        most: how many steps there may be; more only where one rank of each host needs more.
    """
    least = 1 if len(hosts) > 1 else 2
    for count in range(max(map(len, hosts)), least, -1):
        first = [list(ranks[:count]) for ranks in hosts]
        if number_of_steps(first) <= most:
            return first
    return [list(ranks[:least]) for ranks in hosts]


def _side_by_side(sequences: Iterable[Iterable[tuple[int, int]]]) -> Iterator[Step]:
    for step in zip_longest(*sequences):
        yield [pair for pair in step if pair is not None]
