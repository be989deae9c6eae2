"""The least and the greatest: a NaN on one rank is NaN on all, whatever the size and the kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import allranks

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TWO = {"min": torch.minimum, "max": torch.maximum}


def values(rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """What a rank has: numbers of both signs, infinities, and NaN in places of its own."""
    generator = torch.Generator().manual_seed(rank)
    mine = torch.randn(size, generator=generator, dtype=torch.float64) * 100
    mine[rank::7] = math.inf
    mine[2 + rank :: 7] = -math.inf
    mine[4 + rank :: 11] = -0.0 if rank else 0.0
    mine[rank :: max(size // 2, 1)] = math.nan
    return mine.to(dtype)


def expected(size: int, dtype: torch.dtype, op: str) -> torch.Tensor:
    return TWO[op](values(0, size, dtype), values(1, size, dtype))


def assert_same(got: torch.Tensor, size: int, dtype: torch.dtype, op: str) -> None:
    torch.testing.assert_close(got, expected(size, dtype, op), rtol=0, atol=0, equal_nan=True)
    assert got.dtype == dtype
    assert bool(got.isnan().any())


@pytest.mark.ranks(2)
@pytest.mark.parametrize("op", TWO)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 5, 20_000])
def test_a_nan_of_one_rank_is_a_nan_of_all(op, dtype, size) -> None:
    """A bare tensor, twice, since a later call is quicker; a tree; a tensor with gaps; a part."""
    rank = allranks.get_rank()
    for _ in range(2):
        bare = values(rank, size, dtype)
        assert allranks.all_reduce(bare, op=op) is bare
        assert_same(bare, size, dtype, op)
    assert_same(allranks.all_reduce({"a": values(rank, size, dtype)}, op=op)["a"], size, dtype, op)
    wide = torch.zeros(size, 2, dtype=dtype)
    wide[:, 1] = values(rank, size, dtype)
    allranks.all_reduce(wide[:, 1], op=op)
    assert_same(wide[:, 1], size, dtype, op)
    assert not wide[:, 0].any()
    part = allranks.reduce_scatter([values(rank, size, dtype)] * 2, op=op)
    assert_same(part, size, dtype, op)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("op", TWO)
def test_a_nan_in_an_array_and_in_a_number(op) -> None:
    rank = allranks.get_rank()
    for size in (1, 100_000):
        array = np.full(size, math.nan if rank else 1.0)
        assert np.isnan(allranks.all_reduce(array, op=op)).all()
    assert math.isnan(allranks.all_reduce(math.nan if rank else 1.0, op=op))


@pytest.mark.ranks(2)
def test_other_operations_and_integers_travel_as_they_are(monkeypatch) -> None:
    """What keeps a NaN costs them nothing."""
    from allranks._collectives import extremes, in_place

    monkeypatch.setattr(in_place, "as_keys", None)
    assert not extremes.needs_keys(torch.int64, "max")
    assert allranks.all_reduce(torch.full((3,), 2.0)).tolist() == [4.0] * 3
    assert allranks.all_reduce(torch.tensor([allranks.get_rank()]), op="max").tolist() == [1]


@pytest.mark.filterwarnings("ignore:DTensor random operators:UserWarning")  # Torch 2.6.
@pytest.mark.ranks(2)
def test_a_dtensor_is_refused_with_what_to_pass_instead() -> None:
    """Each rank holds a part of it: what should be reduced, the parts or the whole?"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from allranks.errors import CollectiveError

    mesh = init_device_mesh("cpu", (2,))
    sharded = distribute_tensor(torch.arange(4.0), mesh, [Shard(0)])
    for call in (
        lambda: allranks.all_reduce(sharded),
        lambda: allranks.all_reduce({"w": sharded}),
        lambda: allranks.broadcast(sharded, 0),
        lambda: allranks.all_gather(sharded),
        lambda: allranks.reduce_scatter(sharded),
        lambda: allranks.reduce_scatter([sharded, sharded]),
    ):
        with pytest.raises(CollectiveError, match=r"DTensor.*\.full_tensor\(\).*\.to_local\(\)"):
            call()
    assert allranks.all_reduce(sharded.to_local()).tolist() == [2.0, 4.0]
