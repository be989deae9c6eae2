"""What is remembered from call to call stays small, however large the calls are."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch

import allranks
from allranks import _headers, _reduce, _trees
from allranks._remembered import ENTRIES, remembered

ROUNDS, NUMBERS = 10, 20_000


@pytest.mark.ranks(2, timeout=110)
def test_large_trees_are_not_kept(world) -> None:
    """Each of another length, so that none is met again."""
    allranks.all_reduce([0.5] * NUMBERS)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for extra in range(ROUNDS):
        allranks.all_reduce([0.5] * (NUMBERS + extra))
        allranks.all_reduce({f"{extra}.{i}": 1 for i in range(2_000)})
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < ROUNDS * NUMBERS  # A byte for each number; one took a hundred.


@pytest.mark.ranks(2)
def test_small_calls_are_remembered(world) -> None:
    caches = (_reduce._planned_alike, _headers.digest, _trees._order)
    for data in ([torch.ones(1), torch.ones(1)], {"a": 1, "b": 2}):
        for _ in range(3):
            allranks.all_reduce(data)
    assert all(cache.cache_info().hits >= 2 for cache in caches)


def test_what_is_large_is_made_anew() -> None:
    made = []

    @remembered(len, largest=3)
    def length(text: str) -> int:
        made.append(text)
        return len(text)

    assert [length("abc"), length("abc"), length("abcd"), length("abcd")] == [3, 3, 4, 4]
    assert made == ["abc", "abcd", "abcd"]
    assert length.cache_info().maxsize == ENTRIES
