"""A training step on several devices, with torch's own wrappers beside our calls."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import allranks
from gpus import ON_STAND_IN, needs_gpus, world_on

pytestmark = pytest.mark.gpu

ON_GPUS = pytest.param("cuda", id="gpus", marks=needs_gpus(2))
TWO = pytest.mark.ranks(2, setup=False, timeout=300)


def a_model(device) -> nn.Module:
    """With different weights on each rank, before they are broadcast."""
    torch.manual_seed(allranks.get_rank())
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).to(device)
    allranks.broadcast(model.state_dict(), 0)
    allranks.check_same(model)
    return model


@pytest.mark.parametrize("kind", [ON_STAND_IN, ON_GPUS])
@TWO
def test_ddp_and_our_calls_share_a_group(kind) -> None:
    with world_on(kind, None, devices=2) as device:
        model = DistributedDataParallel(a_model(device))
        data = torch.full((2, 4), allranks.get_rank() + 1.0, device=device)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            mean = allranks.all_reduce(loss.detach().clone(), op="mean")
            assert allranks.all_gather(mean)[0].tolist() == mean.tolist()
            optimizer.step()
        allranks.check_same(model.module)


@needs_gpus(2)
@TWO
def test_fsdp2_on_our_mesh() -> None:
    from torch.distributed.fsdp import fully_shard

    with world_on("cuda", None) as device:
        model = a_model(device)
        fully_shard(model, mesh=allranks.mesh({"shard": 2}))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4, device=device)).square().mean()
            loss.backward()
            optimizer.step()
        losses = allranks.all_gather(loss.detach())
        assert losses[0].tolist() == losses[1].tolist()
        whole = [parameter.full_tensor() for parameter in model.parameters()]
        allranks.check_same(whole)
