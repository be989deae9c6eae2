"""One rank asks, all tell where they stand: the answers in the store."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._rendezvous.roll_call import record_of
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._watch.diagnosis import RankStatus
from allranks._watch.event_log import DepartureNote, left_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist

NAMED = 16
"""How many ranks that do not answer are looked up."""


@dataclass(frozen=True)
class RankAnswer:
    """What one rank tells.

    Attributes:
        status: where it stands.
        held: the ranks of its host whose processes are stopped or gone, and how.
    """

    status: RankStatus
    held: dict[int, str]


def answer(store: dist.Store, inquiry: str, rank: int, told: RankAnswer) -> None:
    """Tell where a rank stands."""
    store.set(_place(inquiry, rank), written(told))
    store.add(f"watch/{inquiry}/count", 1)


def count(store: dist.Store, inquiry: str) -> int:
    """How many ranks have told."""
    return store.add(f"watch/{inquiry}/count", 0)


def answers(store: dist.Store, inquiry: str, world_size: int) -> dict[int, RankAnswer]:
    """What the ranks have told that can be read, by rank."""
    told: dict[int, RankAnswer] = {}
    for rank in range(world_size):
        place = _place(inquiry, rank)
        with suppress(MalformedError):
            if store.check([place]):
                told[rank] = parsed(RankAnswer, store.get(place))
    return told


def fates(store: dist.Store, silent: Sequence[int]) -> dict[int, str]:
    """What the store knows of ranks that did not tell."""
    return {rank: _fate(store, rank) for rank in silent[:NAMED]}


def fates_unasked(
    world_size: int, external_store: str, of_rank_0: str, *, lost: bool
) -> dict[int, str]:
    """What can be said of ranks that nobody can ask, since the store does not answer.

    Args:
        world_size: how many ranks there are.
        external_store: names the store where no rank serves it; else "".
        of_rank_0: what is seen of rank 0's process; "" if nothing.
        lost: whether the store is gone.
    """
    if external_store:
        gone = "is gone" if lost else "does not answer"
        return dict.fromkeys(range(world_size), f"cannot be asked, since {external_store} {gone}")
    fates = dict.fromkeys(range(world_size), "cannot be asked, without the store")
    gone = "is gone, and so the others cannot be asked" if lost else "does not answer"
    return {**fates, 0: f"its store {gone}{f'; {of_rank_0}' if of_rank_0 else ''}"}


def _fate(store: dist.Store, rank: int) -> str:
    with suppress(MalformedError):
        if store.check([left_note(rank)]):
            note = parsed(DepartureNote, store.get(left_note(rank)))
            return f"has left, {max(0.0, time.time() - note.at):.0f} s ago: {note.how}"
    who = record_of(store, rank)
    return f"no answer{f' from {who.host}' if who else ''}"


def _place(inquiry: str, rank: int) -> str:
    return f"watch/{inquiry}/{rank}"
