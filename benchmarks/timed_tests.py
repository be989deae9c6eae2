"""The tests that ``testing.py`` times: the same two bodies, on ranks of ours and of mp.spawn's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 2
TIMES = range(int(os.environ.get("TIMED_TESTS", "1")))


def all_reduce() -> None:
    """One collective."""
    ones = torch.ones(3)
    dist.all_reduce(ones)
    assert ones.tolist() == [RANKS] * 3


def optimizer_step() -> None:
    """One step of a small network, its gradients averaged."""
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.full((2, 8), float(dist.get_rank()))).sum().backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    assert model.weight.grad is not None
    assert model.weight.grad.max() == 2


BODIES = (all_reduce, optimizer_step)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("time", TIMES)
@pytest.mark.ranks(RANKS)
def test_allranks(body: Callable[[], None], time: int) -> None:  # noqa: ARG001 - it only repeats
    """On ranks of the plugin's."""
    body()


def on_a_rank(rank: int, body: Callable[[], None], path: str) -> None:
    """What every test of this kind repeats."""
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=RANKS)
    body()
    dist.destroy_process_group()


@pytest.mark.parametrize("body", BODIES)
def test_spawn(body: Callable[[], None], tmp_path: Path) -> None:
    """On ranks of mp.spawn's."""
    spawn(on_a_rank, (body, str(tmp_path / "store")), nprocs=RANKS)  # type: ignore[no-untyped-call]
