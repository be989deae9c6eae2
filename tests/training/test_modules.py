"""Modules of all ranks: made the same, averaged, compared."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import allranks
from allranks.errors import CollectiveError, MismatchError


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    made[3].weight.data = made[3].weight.data.t().contiguous().t()  # Not contiguous.
    made.register_buffer("not kept", torch.full((2,), float(seed)), persistent=False)
    made[1].running_mean.fill_(seed)
    made[1].num_batches_tracked.fill_(seed)
    return made


def tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.ranks(1, 2, 3, 4)
def test_a_module_becomes_that_of_one_rank(world) -> None:
    for src in {0, world.world_size - 1}:
        mine, expected = model(world.rank), tensors(model(src))
        before = tensors(mine)
        allranks.sync_module(mine, src)
        after = tensors(mine)
        assert all(after[name] is tensor for name, tensor in before.items())
        assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())
        assert all(one.requires_grad for one in mine.parameters())
        allranks.check_same(mine, "the model")


@pytest.mark.ranks(4)
def test_a_group_has_a_model_of_its_own(world) -> None:
    group = allranks.split(world.rank > 1)
    mine = model(world.rank)
    allranks.sync_module(mine, 3 if world.rank > 1 else 1, group=group)
    assert mine[1].num_batches_tracked == (3 if world.rank > 1 else 1)
    allranks.check_same(mine, group=group)
    with pytest.raises(
        MismatchError,
        match=r"model\['0.bias'\] first differs at \[0\]: ranks 0-1: \S+, ranks 2-3: \S+;",
    ):
        allranks.check_same(mine, "model")


@pytest.mark.ranks(3)
def test_modules_that_differ_in_shape(world) -> None:
    mine = nn.Linear(2, 3 if world.rank == 1 else 4)
    weight = mine.weight.detach().clone()
    with pytest.raises(MismatchError, match=r"'weight': torch.float32\[3, 2\]"):
        allranks.sync_module(mine)
    assert torch.equal(mine.weight, weight)


@pytest.mark.ranks(1, 2, 4)
def test_statistics_are_averaged(world) -> None:
    mine = model(world.rank)
    allranks.average_buffers(mine)
    mean = (world.world_size - 1) / 2
    assert mine[1].running_mean.tolist() == [mean] * 4
    assert mine[1].num_batches_tracked == world.rank
    assert mine.get_buffer("not kept").tolist() == [world.rank] * 2
    allranks.average_buffers(nn.Linear(1, 1))


SAME = (
    {"lr": 0.1, "names": ["a", None], "set": {"x", "y", "z"}, "flag": True},
    [torch.tensor(float("nan")), torch.empty(0, 3), torch.ones(2, 3).t()],
    (np.arange(6).reshape(2, 3), np.float32(2), np.array(["a", "b"]), b"x", 1j),
    Path(__file__),
    torch.ones(100_000, dtype=torch.bfloat16),
)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("data", SAME)
def test_what_is_the_same(world, data) -> None:
    allranks.check_same(data)


@pytest.mark.ranks(2)
def test_the_order_of_a_dict_is_of_no_account(world) -> None:
    allranks.check_same({"a": 1, "b": 2} if world.rank else {"b": 2, "a": 1})


DIFFER = [
    (lambda last: {"lr": 0.2 if last else 0.1}, r"^it\['lr'\]: ranks 0-1: 0.1, rank 2: 0.2$"),
    (lambda last: [1, "a" if last else "b"], r"^it\[1\]: ranks 0-1: 'b', rank 2: 'a'$"),
    (lambda last: 1 if last else True, "^it: ranks 0-1: True, rank 2: 1$"),
    (
        lambda last: {"a": 1, "b": 2} if last else {"a": 1},
        r"^it\['b'\]: ranks 0-1: none, rank 2: 2$",
    ),
    (
        lambda last: torch.ones(2, 3 if last else 2),
        r"ranks 0-1: float32\[2, 2\] with hash \w+, rank 2: float32\[2, 3\] with hash \w+$",
    ),
    (
        lambda last: torch.ones(2) if last else torch.ones(2, dtype=torch.float64),
        r"ranks 0-1: float64\[2\] with hash .*, rank 2: float32\[2\]",
    ),
    (
        lambda last: {"w": torch.arange(12.0).view(3, 4) + torch.eye(3, 4) * (0.5 * last)},
        r"^it\['w'\] first differs at \[0, 0\]: ranks 0-1: 0.0, rank 2: 0.5$",
    ),
    (lambda last: torch.tensor(-0.0 if last else 0.0), "^it: ranks 0-1: 0.0, rank 2: -0.0$"),
    (
        lambda last: [np.int64(1), np.array([[1, 2], [3, 5 if last else 4]])],
        r"it\[1\] first differs at \[1, 1\]: ranks 0-1: 4, rank 2: 5",
    ),
    (
        lambda last: np.array(1) if last else np.array([1]),
        r"ranks 0-1: int64\[1\] with hash \w+, rank 2: int64\[\] with hash \w+$",
    ),
    (lambda last: list(range(9)) if last else list(range(1, 10)), "and 4 more differ$"),
]


@pytest.mark.ranks(3)
@pytest.mark.parametrize(("data", "told"), DIFFER)
def test_what_differs_is_named_on_all_ranks(world, data, told) -> None:
    with pytest.raises(MismatchError, match=told):
        allranks.check_same(data(world.rank == 2), "it")
    assert allranks.all_reduce(1) == 3


@pytest.mark.ranks(4)
def test_every_group_of_ranks_is_a_side(world) -> None:
    with pytest.raises(MismatchError, match=r"^x: ranks 0, 2: 0, ranks 1, 3: 1$"):
        allranks.check_same(world.rank % 2, "x")
    group = allranks.split(world.rank > 0)
    if world.rank:
        with pytest.raises(
            MismatchError, match=r"^data first differs at \[1\]: ranks 1, 3: 1, rank 2: 0$"
        ):
            allranks.check_same(torch.tensor([1, world.rank % 2]), group=group)


def one_hot(rank: int) -> torch.Tensor:
    made = torch.zeros(3, 4, dtype=torch.bfloat16)
    made[1 + rank // 2, rank % 2] = 1
    return made


@pytest.mark.ranks(4)
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (float, "rank 0: 0.0, rank 1: 1.0, rank 2: 2.0, and 1 more on 1 other rank"),
        (lambda rank: max(1, rank), "ranks 0-1: 1, rank 2: 2, rank 3: 3"),
        (
            lambda rank: torch.tensor([[7, rank]]),
            "first differs at [0, 1]: rank 0: 0, rank 1: 1, rank 2: 2, and 1 more on 1 other rank",
        ),
        (
            one_hot,
            "first differs at [1, 0]: rank 0: 1.0, ranks 1-3: 0.0; 4 different ones in all",
        ),
        (  # Ranks 0 and 1 differ later than both from the others.
            lambda rank: torch.tensor([rank // 2, rank]),
            "first differs at [0]: ranks 0-1: 0, ranks 2-3: 1; 4 different ones in all",
        ),
        (lambda rank: torch.tensor(complex(0, rank)), "rank 0: 0j, rank 1: 1j, rank 2: 2j, and 1"),
    ],
)
def test_values_are_shown_with_the_ranks_that_hold_them(world, data, told: str) -> None:
    with pytest.raises(MismatchError, match=re.escape(told)):
        allranks.check_same({"": data(world.rank)})
    assert allranks.all_reduce(1) == 4


@pytest.mark.ranks(5)
def test_what_is_not_shown_is_counted(world) -> None:
    told = "^it: rank 0: 0, rank 1: 1, rank 2: 2, and 2 more on 2 other ranks$"
    for data in (world.rank, np.array(world.rank)):
        with pytest.raises(MismatchError, match=told):
            allranks.check_same(data, "it")


@pytest.mark.ranks(2)
def test_files_are_compared_by_what_is_in_them(world, tmp_path) -> None:
    mine = tmp_path / f"{world.rank}.bin"
    mine.write_bytes(os.urandom(10) + b"x" * 3_000_000)
    with pytest.raises(MismatchError, match="it: rank 0: file with hash"):
        allranks.check_same(mine, "it")
    mine.write_bytes(b"x" * 3_000_000)
    allranks.check_same(mine)


@pytest.mark.ranks(3)
def test_what_cannot_be_read_is_every_ranks_error(world, tmp_path) -> None:
    last = world.rank == 2
    with pytest.raises(CollectiveError, match=r"rank 2: .*FileNotFoundError.*nowhere"):
        allranks.check_same(tmp_path / "nowhere" if last else 1)
    with pytest.raises(CollectiveError, match=r"rank 2: check_same\(it\): .*local object"):
        allranks.check_same([lambda: 1] if last else 1, "it")
    with pytest.raises(CollectiveError, match=r"data\['a'\]: .*sparse"):
        allranks.check_same({"a": torch.eye(2).to_sparse()} if last else 1)
    with pytest.raises(MismatchError, match="different calls"):
        allranks.check_same(1, "this" if last else "that")


@pytest.mark.ranks(2)
def test_equal_data_take_one_exchange(world, monkeypatch) -> None:
    from allranks._transport import headers

    calls = []
    monkeypatch.setattr(
        headers, "_ask", lambda *a, _real=headers._ask: calls.append(a[3]) or _real(*a)
    )
    allranks.check_same(model(0))
    assert calls == ["check_same(what='data')"]
