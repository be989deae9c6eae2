"""Tests of a project on real ranks: ``pytest examples/own_tests``; needs nothing but the package.

Each test with the marker runs on so many ranks, its fixtures too. A failure names the ranks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import allranks
from top_k import TopK


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """Scores and labels of seven samples, the same on all ranks: seven divides by no size."""
    draw = torch.Generator().manual_seed(3)
    return torch.rand(7, 5, generator=draw), torch.randint(5, (7,), generator=draw)


@pytest.mark.ranks(1, 2, 4)
@pytest.mark.parametrize("k", [1, 3])
def test_the_share_is_that_of_all_samples(samples: tuple[Tensor, Tensor], k: int) -> None:
    scores, labels = samples
    metric = TopK(k)
    metric.update(allranks.shard(scores), allranks.shard(labels))
    right = [label in row.topk(k).indices for row, label in zip(scores, labels, strict=True)]
    assert metric.compute() == sum(right) / 7


@pytest.mark.ranks(2, 4)
def test_a_rank_without_samples_counts_for_nothing() -> None:
    metric = TopK()
    if allranks.is_master():
        metric.update(torch.eye(3), torch.tensor([0, 1, 0]))
    assert metric.compute() == 2 / 3


@pytest.mark.ranks(2)
def test_no_sample_at_all_is_an_error_on_all_ranks() -> None:
    with pytest.raises(ValueError, match="no rank has seen a sample"):
        TopK().compute()


@pytest.mark.ranks(2)
def test_a_rank_that_reports_something_else_is_named(world: allranks.World) -> None:
    metric = TopK()
    with pytest.raises(allranks.errors.MismatchError, match="rank 1: all_reduce"):
        metric.compute() if world.rank == 0 else allranks.all_reduce({"right": 0})
