"""What no call can take: an error of ours on all ranks, after which the group works on."""

from __future__ import annotations

from enum import Enum

import numpy as np
import pytest
import torch

import allranks
from allranks._system.printable import brief_repr
from allranks.errors import CollectiveError


class Hostile:
    """Each thing that one may ask of an object is an error."""

    def _refuse(self, *_):
        raise ValueError("leave me alone")

    __bool__ = __eq__ = __hash__ = __repr__ = __str__ = __format__ = __index__ = _refuse


class Op(str, Enum):
    SUM = "sum"


OPS = [["sum"], {}, np.array([0, 1]), None, 3, Hostile(), "xor", "s" * 10**5]
CALLS = [
    lambda **bad: allranks.all_reduce(torch.ones(1), **bad),
    lambda **bad: allranks.all_reduce(1.0, **bad),
    lambda **bad: allranks.all_reduce({"a": [1, torch.ones(1)]}, **bad),
    lambda **bad: allranks.reduce_scatter(torch.ones(2), **bad),
]


@pytest.mark.ranks(2)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("op", OPS, ids=lambda op: type(op).__name__)
def test_an_op_that_one_rank_cannot_ask_for_is_the_same_error_on_all(call, op, world) -> None:
    with pytest.raises(CollectiveError) as caught:
        call(op=op) if world.rank else call()
    mine, theirs = allranks.all_gather_objects(str(caught.value))
    assert mine == theirs
    assert len(mine) < 1000
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("average", [np.array([0, 1]), Hostile()], ids=["array", "hostile"])
def test_an_average_that_is_neither_true_nor_false(call, average, world) -> None:
    with pytest.raises(CollectiveError, match="average="):
        call(average=average)
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2, setup=False)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("op", OPS, ids=lambda op: type(op).__name__)
def test_an_op_that_is_none_is_refused_where_nothing_is_checked(call, op, unchecked) -> None:
    tensor = torch.ones(2)
    for _ in range(2):  # Before and after a first call, whose dtype is remembered.
        with pytest.raises(CollectiveError, match="is none of sum"):
            allranks.all_reduce(tensor, op=op)
        with pytest.raises(CollectiveError, match="is none of sum"):
            call(op=op)
        assert torch.equal(tensor, torch.ones(2))
        allranks.all_reduce(torch.ones(2))


@pytest.mark.ranks(2, setup=False)
def test_an_op_may_be_any_text(unchecked) -> None:
    assert allranks.all_reduce(1, op=Op.SUM) == 2
    assert allranks.all_reduce(torch.ones(1), op=Op.SUM) == 2


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    "src", [None, "0", [0], 0.5, np.array([0, 1]), 7, -1, 2**70, Hostile()], ids=brief_repr
)
def test_a_sender_that_is_none_on_one_rank_is_an_error_on_all(src, world) -> None:
    for call in (
        lambda src=src: allranks.broadcast(torch.ones(1), src),
        lambda src=src: allranks.broadcast_object(1, src),
        lambda src=src: allranks.scatter_objects([1, 2], src),
    ):
        with pytest.raises(CollectiveError, match="is not in this group"):
            call() if world.rank else call(src=0)
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2)
def test_a_sender_is_any_whole_number(world) -> None:
    for src in (np.int64(1), torch.tensor(1), True):
        assert allranks.broadcast_object(world.rank, src) == 1


@pytest.mark.ranks(2)
def test_a_sender_may_be_told_in_different_ways(world) -> None:
    src = 1 if world.rank else np.int64(1)
    assert allranks.broadcast_object(world.rank, src) == 1
    assert allranks.scatter_objects([3, 4] if world.rank else None, src) == 3 + world.rank
    assert allranks.broadcast(torch.tensor(world.rank), src) is None


@pytest.mark.ranks(2)
@pytest.mark.parametrize("data", [torch.ones(2), "text"], ids=["tensor", "text"])
@pytest.mark.parametrize("cat", [np.array([0, 1]), Hostile()], ids=["array", "hostile"])
def test_a_cat_that_is_neither_true_nor_false(data, cat, world) -> None:
    with pytest.raises(CollectiveError, match=r"cat=.* is neither true nor false"):
        allranks.all_gather(data, cat=cat if world.rank else True)
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2)
def test_a_cat_may_be_of_any_type_that_has_a_truth(world) -> None:
    for cat in (None, 0, 1, "yes", np.True_):
        gathered = allranks.all_gather(torch.ones(1), cat=cat)
        assert isinstance(gathered, torch.Tensor) == bool(cat)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("how", [np.array([0, 1]), Hostile(), ["any"], None, "all ", Op.SUM])
def test_a_way_to_agree_that_is_none(how, world) -> None:
    with pytest.raises(CollectiveError, match="is neither"):
        allranks.agree(True, how if world.rank else "all")
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2)
@pytest.mark.parametrize("device", ["nowhere", "cuda:99", 10**9, ["cpu"]], ids=repr)
def test_a_device_that_one_rank_does_not_have(device, world) -> None:
    tensor = torch.ones(2)
    with pytest.raises(CollectiveError, match=r"all_reduce\(sum\): moved from cpu to "):
        allranks.all_reduce(tensor, device=device if world.rank else None)
    assert tensor.tolist() == [1.0, 1.0]
    assert allranks.all_reduce(1) == 2
