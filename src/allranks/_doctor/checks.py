"""``Check``: what was looked at, what was seen there, and the line to type where it is wrong."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.words import by_host

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

OK, WARNING, FAILURE = "ok", "warning", "failure"
"""A failure ends the job; a warning is what it may live with, slower or in other company."""


class Place(NamedTuple):
    """Where something was seen: a rank, its host's name, and the host's number in the job."""

    rank: int
    host: str
    node: int = 0


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        what: what was looked at.
        status: "ok", "warning" or "failure".
        seen: what was found there, with the figures.
        remedy: what to type against it; "" where all is well.
    """

    what: str
    status: str
    seen: str
    remedy: str = ""


def fails(checks: Iterable[Check]) -> bool:
    """Whether the job would fail."""
    return any(check.status == FAILURE for check in checks)


def merged(seen: Mapping[Place, Collection[Check]]) -> list[Check]:
    """The checks of several ranks, each thing said once.

    What is wrong comes with the ranks and hosts where it is so; of what is well everywhere the
    lowest rank's words are shown.
    """
    by_what: dict[str, dict[Check, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for place in sorted(seen):
        for check in seen[place]:
            by_what[check.what][check].append(place)
    return [row for alike in by_what.values() for row in _of_one_thing(alike, len(seen))]


def _of_one_thing(alike: Mapping[Check, list[Place]], everybody: int) -> Iterator[Check]:
    wrong = [check for check in alike if check.status != OK]
    if not wrong:
        yield next(iter(alike))
    for check in wrong:
        yield check if len(alike[check]) == everybody else at(alike[check], check)


def at(places: Iterable[Place], check: Check) -> Check:
    """A check with the places where it is so: ``ranks 0-3 on h1: ...``."""
    found = list(places)
    word = "rank" if len(found) == 1 else "ranks"
    return replace(check, seen=f"{word} {by_host((p.host, p.rank) for p in found)}: {check.seen}")


def first_of_hosts(places: Iterable[Place]) -> list[Place]:
    """The lowest rank of each host, by the hosts' numbers."""
    found: dict[int, Place] = {}
    for place in sorted(places):
        found.setdefault(place.node, place)
    return [found[node] for node in sorted(found)]
