"""The records of a roll call in its store: one rank brings those of many, who are found again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from allranks._rendezvous.record import Batch, read
from allranks._system.typed_json import written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord

BATCHES = "batches"
"""Under this key of the store: how many batches have been begun; they are numbered from 1."""

ARRIVED = "arrived"
"""How many records were brought, those that were brought twice counted twice."""

LOOK = "look"
"""Is set when rank 0 should look: all have come, or something is wrong."""

TOGETHER = 512
"""Keys that one operation of the store reads or writes."""

INDEXED = 1024
"""Ranks whose places stand under one key of the index."""


def bring(store: dist.Store, rows: Sequence[RankRecord], world_size: int) -> int:
    """Write records into the store, in three operations; whoever is the last calls rank 0.

    Returns:
        The batch's number.
    """
    number = store.add(BATCHES, 1)
    store.set(batch(number), written(Batch(tuple(rows))))
    if store.add(ARRIVED, len(rows)) >= world_size:
        store.set(LOOK, "")
    return number


def batch(number: int) -> str:
    """The key of a batch."""
    return f"batch/{number}"


def seat(host_key: str) -> str:
    """The key of what rank 0 tells a host."""
    return f"host/{hashlib.sha256(host_key.encode(errors='replace')).hexdigest()[:16]}"


def rows_of(store: dist.Store, numbers: Iterable[int], place: str) -> dict[int, Batch]:
    """Batches by their numbers, which must be there or are waited for."""
    numbers = list(numbers)
    keys = [batch(number) for number in numbers]
    texts = get_all(store, keys)
    return {
        number: read(Batch, text, key, place)
        for number, key, text in zip(numbers, keys, texts, strict=True)
    }


def get_all(store: dist.Store, keys: Sequence[str]) -> list[bytes]:
    """The values of keys, which must be there or are waited for."""
    if not store.has_extended_api():  # type: ignore[attr-defined]  # not in the stubs
        return [store.get(key) for key in keys]
    found: list[bytes] = []
    for first in range(0, len(keys), TOGETHER):
        found += store.multi_get(list(keys[first : first + TOGETHER]))
    return found


def set_all(store: dist.Store, values: Mapping[str, str]) -> None:
    """Set keys, many in one operation where the store can do that."""
    pairs = list(values.items())
    if not store.has_extended_api():  # type: ignore[attr-defined]  # not in the stubs
        for key, value in pairs:
            store.set(key, value)
        return
    for first in range(0, len(pairs), TOGETHER):
        some = pairs[first : first + TOGETHER]
        keys, texts = [key for key, _ in some], [value for _, value in some]
        store.multi_set(keys, texts)  # type: ignore[attr-defined]  # not in the stubs


def index_of(batch_of: Sequence[int]) -> dict[str, str]:
    """What to set so that ``record_of`` finds each rank.

    Args:
        batch_of: the number of the batch with each rank's record.
    """
    return {
        place_in_index(rank)[0]: written(batch_of[rank : rank + INDEXED])
        for rank in range(0, len(batch_of), INDEXED)
    }


def place_in_index(rank: int) -> tuple[str, int]:
    """Where the index names a rank's batch: the key, and the position in the list under it."""
    return f"where/{rank // INDEXED}", rank % INDEXED
