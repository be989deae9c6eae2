"""Two ranks on one GPU: over NCCL an error before NCCL's own, over gloo allowed."""

from __future__ import annotations

import os
import re

import pytest
import torch

import allranks
from accelerators import FakeAccelerator
from gpus import needs_gpus, number
from harness import run_ranks

pytestmark = pytest.mark.gpu

SHARED = r"RendezvousError: ranks 0-1 on \S+ use the same GPU, GPU-0, and NCCL refuses that\. "


def set_up(visible: int, backend: str | None, **environ: str):
    """What becomes of a rank where torch has NCCL, and shows it so many GPUs that are not here."""
    FakeAccelerator("cuda", visible).put_in()
    os.environ.update(environ)
    torch.distributed.is_backend_available = lambda _name: True
    allranks.setup(distributed_backend=backend, rendezvous_timeout=300)
    return allranks.all_reduce(1)


@pytest.mark.parametrize("backend", [None, "nccl", "cpu:gloo,cuda:nccl"])
def test_over_nccl_both_ranks_and_the_gpu_are_named(backend) -> None:
    for one in run_ranks(set_up, 2, 1, backend):
        assert one.error is not None
        assert re.match(SHARED, one.text), one.text
        assert "setup(distributed_backend='gloo')" in one.text
        assert "CUDA_VISIBLE_DEVICES" in one.text


def test_over_gloo_it_is_allowed() -> None:
    assert [one.value for one in run_ranks(set_up, 2, 1, "gloo")] == [2, 2]


def shared_by_nccl():
    """With the variable of NCCL 2.30, it is left to NCCL, which is not here."""
    with pytest.raises(Exception) as told:  # noqa: PT011 - whatever torch says
        set_up(1, "nccl", NCCL_MULTI_RANK_GPU_ENABLE="1")
    return str(told.value)


def test_nccl_is_let_share_it_where_that_is_asked_for() -> None:
    for one in run_ranks(shared_by_nccl, 2):
        assert "same GPU" not in one.value


@needs_gpus(1)
@pytest.mark.ranks(2, setup=False, timeout=300)
def test_a_real_gpu_is_named_before_nccl_speaks(monkeypatch) -> None:
    monkeypatch.delenv("NCCL_MULTI_RANK_GPU_ENABLE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", number(0))
    with pytest.raises(allranks.errors.RendezvousError, match=r"ranks 0-1 on .* use the same GPU"):
        allranks.setup(cpu=False)
