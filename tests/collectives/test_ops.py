"""Reductions in any spelling, and those of bits."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_, xor

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks.errors import CollectiveError

BITS = {"band": and_, "bor": or_, "bxor": xor}

SPELLINGS = {
    "sum": ["SUM", "Sum", "ReduceOp.SUM", dist.ReduceOp.SUM, dist.ReduceOp(dist.ReduceOp.SUM)],
    "mean": ["avg", "AVG", "average", dist.ReduceOp.AVG],
    "prod": ["product", "PRODUCT", dist.ReduceOp.PRODUCT],
    "min": ["MIN", dist.ReduceOp.MIN],
    "max": ["Max", dist.ReduceOp.MAX],
    "band": ["BAND", dist.ReduceOp.BAND],
    "bor": ["BOR", dist.ReduceOp.BOR],
    "bxor": ["BXOR", dist.ReduceOp.BXOR],
}


@pytest.mark.ranks(1, 2, 3)
def test_every_spelling_is_the_same_reduction(world) -> None:
    mine = 3 * world.rank + 5
    for ours, others in SPELLINGS.items():
        expected = allranks.all_reduce(mine, op=ours)
        for other in others:
            assert allranks.all_reduce(mine, op=other) == expected, other
            assert allranks.all_reduce({"a": mine}, op=other) == {"a": expected}
            if ours != "mean":
                tensor = torch.tensor([mine])
                assert allranks.all_reduce(tensor, op=other).item() == expected
                parts = [torch.tensor([mine])] * world.world_size
                assert allranks.reduce_scatter(parts, op=other).item() == expected


def of_rank(rank: int) -> list[int]:
    return [0b1100 ^ rank, -1 - rank, rank, 7]


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("op", BITS)
@pytest.mark.parametrize("size", [1, 30_000])
def test_bits_of_integers(world, op: str, size: int) -> None:
    rows = [of_rank(rank) for rank in range(world.world_size)]
    expected = [reduce(BITS[op], column) for column in zip(*rows, strict=True)]
    mine = rows[world.rank]
    for dtype in (torch.int8, torch.int32, torch.int64):
        tensor = torch.tensor(mine, dtype=dtype).repeat(size)
        tree = {"t": tensor.clone(), "n": mine[0], "a": np.array(mine, dtype=np.int64)}
        reduced = allranks.all_reduce(tree, op=op)
        assert reduced["t"].tolist() == expected * size
        assert (reduced["n"], reduced["a"].tolist()) == (expected[0], expected)
        assert allranks.all_reduce(tensor, op=op) is tensor
        assert tensor.tolist() == expected * size


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("op", BITS)
def test_bits_of_booleans_stay_booleans(world, op: str) -> None:
    column = [rank % 2 == 0 for rank in range(world.world_size)]
    expected = reduce(BITS[op], column)
    mine = column[world.rank]
    assert allranks.all_reduce(mine, op=op) is expected
    tensor, array = torch.tensor([mine]), np.array([mine])
    reduced = allranks.all_reduce({"t": tensor, "a": array, "s": np.bool_(mine)}, op=op)
    assert (reduced["t"].dtype, reduced["t"].item()) == (torch.bool, expected)
    assert (reduced["a"].dtype, bool(reduced["a"][0])) == (bool, expected)
    assert bool(reduced["s"]) is expected
    assert allranks.all_reduce(tensor, op=op).item() is expected


@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("data", [1.5, {"a": 1.5}, 1j, np.float32(1), torch.ones(1), [1, 2.0]])
def test_floats_have_no_bits(world, data) -> None:
    """On one rank alone it is every rank's error all the same."""
    wrong = data if world.rank == world.world_size - 1 or torch.is_tensor(data) else 1
    with pytest.raises(CollectiveError, match="there is no bor of"):
        allranks.all_reduce(wrong, op="bor")
    assert allranks.all_reduce(1) == world.world_size


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("op", ["add", "", None, 3, dist.ReduceOp.PREMUL_SUM, "reduceop.", "sums"])
def test_what_is_no_reduction(world, op) -> None:
    with pytest.raises(CollectiveError, match=r"is none of sum, mean, .*, bxor"):
        allranks.all_reduce(1, op=op)
