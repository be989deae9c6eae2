"""What is remembered from call to call stays small, however large the calls are."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch

import allranks
from allranks._collectives import reduced_trees, trees
from allranks._system.bounded_cache import ENTRIES, LARGEST, remembered
from allranks._transport import headers
from harness import PATIENCE

ROUNDS, NUMBERS, LONG = 10, 20_000, 200_000


@pytest.mark.ranks(2, timeout=PATIENCE)
def test_large_trees_are_not_kept(world) -> None:
    """Each of another length, so that none is met again."""
    allranks.all_reduce([0.5] * NUMBERS)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for extra in range(ROUNDS):
        allranks.all_reduce([0.5] * (NUMBERS + extra))
        allranks.all_reduce({f"{extra}.{i}": 1 for i in range(NUMBERS)})
        allranks.all_reduce({str(extra) * LONG: 1, "in": {str(extra) * LONG: 1}})
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < ROUNDS * NUMBERS  # A byte for each number; one took a hundred.


@pytest.mark.ranks(2)
def test_small_calls_are_remembered(world) -> None:
    caches = (reduced_trees._planned_alike, headers.digest, trees._order)
    for data in ([torch.ones(1), torch.ones(1)], {"a": 1, "b": 2}):
        for _ in range(3):
            allranks.all_reduce(data)
    assert all(cache.cache_info().hits >= 2 for cache in caches)


def test_what_is_large_is_made_anew() -> None:
    made = []
    small, large = "a" * LARGEST, "a" * (LARGEST + 1)

    @remembered(len)
    def length(text: str) -> int:
        made.append(len(text))
        return len(text)

    assert [length(text) for text in (small, small, large, large)] == [
        *(LARGEST, LARGEST),
        *(LARGEST + 1, LARGEST + 1),
    ]
    assert made == [LARGEST, LARGEST + 1, LARGEST + 1]
    assert length.cache_info().maxsize == ENTRIES


@pytest.mark.parametrize("text", ["", "a" * (LARGEST + 1)])
def test_errors_have_no_context(text: str) -> None:
    @remembered(len)
    def refused(text: str) -> None:
        raise ValueError(len(text))

    with pytest.raises(ValueError, match=str(len(text))) as caught:
        refused(text)
    assert caught.value.__context__ is None
