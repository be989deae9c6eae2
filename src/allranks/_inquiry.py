"""One rank asks, all tell where they stand: the answers in the store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from allranks._bulletin import left_note
from allranks._rollcall import answered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist

NAMED = 16
"""How many ranks that do not answer are looked up."""


def answer(store: dist.Store, inquiry: str, rank: int, told: dict[str, Any]) -> None:
    """Tell where a rank stands."""
    store.set(_place(inquiry, rank), json.dumps(told))
    store.add(f"watch/{inquiry}/count", 1)


def count(store: dist.Store, inquiry: str) -> int:
    """How many ranks have told."""
    return store.add(f"watch/{inquiry}/count", 0)


def answers(store: dist.Store, inquiry: str, world_size: int) -> dict[int, Any]:
    """What the ranks have told, by rank."""
    places = {rank: _place(inquiry, rank) for rank in range(world_size)}
    return {r: json.loads(store.get(place)) for r, place in places.items() if store.check([place])}


def fates(store: dist.Store, silent: Sequence[int]) -> dict[int, str]:
    """What the store knows of ranks that did not tell."""
    return {rank: _fate(store, rank) for rank in silent[:NAMED]}


def _fate(store: dist.Store, rank: int) -> str:
    if store.check([left_note(rank)]):
        note = json.loads(store.get(left_note(rank)))
        return f"has left, {max(0.0, time.time() - note['at']):.0f} s ago: {note['how']}"
    who = answered(store, rank)
    return f"no answer{f' from {who.host}' if who else ''}"


def _place(inquiry: str, rank: int) -> str:
    return f"watch/{inquiry}/{rank}"
