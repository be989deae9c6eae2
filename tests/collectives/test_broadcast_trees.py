"""Trees that one rank sends: tensors in place, in few messages, all else anew."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._collectives import broadcast as module
from allranks.errors import CollectiveError, MismatchError


class Pair(NamedTuple):
    weight: torch.Tensor
    name: object


def of_rank(rank: int, size: int):
    """A tree of many kinds of leaves, some of them large if the size is."""
    return {
        "floats": torch.full((size, 3), float(rank)),
        "bytes": torch.full((7,), rank, dtype=torch.uint8),
        "halves": torch.full((size, 1), rank, dtype=torch.bfloat16),
        "strided": torch.full((3, size), rank, dtype=torch.int64).t(),
        "none of it": torch.empty(0, 4),
        "complex": torch.full((1,), complex(rank, -rank)),
        "array": np.full((2, size), rank, dtype=np.float32),
        "pair": Pair(torch.tensor(rank), f"rank {rank}"),
        "list": [rank, rank / 2, None, {"deep": rank > 0}, np.float32(rank)],
    }


def check(tree, rank: int, size: int) -> None:
    expected = of_rank(rank, size)
    for name in ("floats", "bytes", "halves", "strided", "none of it", "complex"):
        assert torch.equal(tree[name], expected[name]), name
    assert (tree["array"] == expected["array"]).all()
    assert (tree["pair"].weight.item(), tree["pair"].name) == (rank, f"rank {rank}")
    assert tree["list"] == expected["list"]


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("size", [1, 5000])
def test_a_tree_is_overwritten_in_place(world, size: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "BUCKET", 50_000)
    for src in {0, world.world_size - 1}:
        mine = of_rank(world.rank, size)
        tensors = {name: leaf for name, leaf in mine.items() if torch.is_tensor(leaf)}
        made = allranks.broadcast(mine, src)
        check(made, src, size)
        assert list(made) == list(mine)
        assert all(made[name] is leaf for name, leaf in tensors.items())
        assert made["array"] is mine["array"]
        assert type(made["pair"]) is Pair
        assert (made is mine) == (world.rank == src)


@pytest.mark.ranks(4)
def test_a_group_without_rank_0(world) -> None:
    group = allranks.split(world.rank > 0)
    made = allranks.broadcast(of_rank(world.rank, 3000), 2 if world.rank else 0, group)
    check(made, 2 if world.rank else 0, 3000)


@pytest.mark.ranks(1, 3)
def test_a_state_dict_stays_one(world) -> None:
    torch.manual_seed(world.rank)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    state = layer.state_dict()
    made = allranks.broadcast(state, 0)
    assert type(made) is OrderedDict
    assert made._metadata == state._metadata
    torch.manual_seed(0)
    expected = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).state_dict()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("number", [3, 2.5, True, 1j, np.int16(4), np.ones(3)])
def test_numbers_and_arrays_by_themselves(world, number) -> None:
    mine = number if world.rank == 0 else number * 0
    made = allranks.broadcast(mine, 0)
    assert np.array_equal(made, number)
    assert type(made) is type(number)


WRONG = {
    "no tree": "text",
    "a graph": {"a": torch.ones(2, requires_grad=True) * 2},
    "shared memory": [torch.ones(1).expand(3)],
    "a lambda": {"a": lambda: 1},
    "an array that cannot be written": {"a": np.broadcast_to(1.0, (3,))},
}


@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_sent_is_every_ranks_error(world, kind) -> None:
    """With one rank wrong, and nothing is changed."""
    wrong = world.rank == world.world_size - 1
    data = WRONG[kind] if wrong else {"a": torch.ones(2)}
    with pytest.raises(CollectiveError):
        allranks.broadcast(data, world.world_size - 1)
    assert allranks.broadcast([1], 0) == [1]


@pytest.mark.ranks(2, 4)
def test_trees_that_do_not_fit(world) -> None:
    last = world.rank == world.world_size - 1
    mine = {"a": torch.zeros(3 if last else 2), "b": torch.full((1,), 7.0)}
    with pytest.raises(MismatchError, match=r"'a': torch.float32\[3\]"):
        allranks.broadcast(mine, 0)
    assert (mine["a"].sum(), mine["b"].item()) == (0, 7)
    with pytest.raises(MismatchError, match="different calls"):
        allranks.broadcast({"a": 1} if last else {"b": 1}, 0)
    with pytest.raises(CollectiveError, match="src=9 is not in this group"):
        allranks.broadcast([1], 9 if last else 0)
    with pytest.raises(CollectiveError, match="async_op=True needs a tensor"):
        allranks.broadcast([1], 0, async_op=True)


@pytest.mark.ranks(2)
def test_many_tensors_are_few_messages(world, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(
        dist, "broadcast", lambda *a, _real=dist.broadcast, **k: calls.append(1) or _real(*a, **k)
    )
    tensors = [torch.full((100, 100), float(world.rank)) for _ in range(300)]
    allranks.broadcast(tensors, 1)
    assert all((tensor == 1).all() for tensor in tensors)
    assert len(calls) == 1
