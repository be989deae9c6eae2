"""What a training program uses beside allranks, after one ``setup`` and in one process.

Each function is a check that needs no more than a process group, as the libraries' pages have it.

    python company.py
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

import allranks

if TYPE_CHECKING:
    from collections.abc import Callable


def same_on_all(value: torch.Tensor) -> None:
    """Every rank has these very numbers."""
    for other in allranks.all_gather(value.detach().clone()):
        assert torch.equal(other, value)


def step(model: nn.Module) -> None:
    """One step of training on this rank's own data."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.full((4, 3), float(allranks.get_rank() + 1))
    model(inputs).square().mean().backward()
    optimizer.step()


def ddp() -> None:
    torch.manual_seed(allranks.get_rank())
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    step(model)
    same_on_all(model.module.weight)


def fsdp2() -> None:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
    assert model.weight.to_local().shape == (1, 3)
    step(model)
    after = model.weight.full_tensor()
    assert not torch.equal(after, before)
    same_on_all(after)


def device_mesh() -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("ranks",))
    assert mesh.get_rank() == allranks.get_rank()
    tensor = distribute_tensor(torch.arange(6.0), mesh, [Shard(0)])
    assert tensor.to_local().numel() == 3
    assert tensor.sum().full_tensor() == 15
    assert allranks.all_reduce(1, mesh.get_group("ranks")) == 2


def distributed_sampler() -> None:
    from torch.utils.data import DistributedSampler

    drawn = list(DistributedSampler(list(range(10)), shuffle=False))
    assert sorted(i for some in allranks.all_gather_objects(drawn) for i in some) == list(range(10))


def distributed_checkpoint() -> None:
    from torch.distributed import checkpoint

    directory = allranks.broadcast_object(tempfile.mkdtemp(dir=os.environ.get("SHARED")))
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    checkpoint.save({"model": model.state_dict()}, checkpoint_id=directory)
    again = {"model": nn.Linear(3, 2).state_dict()}
    checkpoint.load(again, checkpoint_id=directory)
    assert torch.equal(again["model"]["weight"], model.weight)


def torchmetrics() -> None:
    from torchmetrics import MeanMetric

    mean = MeanMetric()
    mean.update(float(allranks.get_rank()))
    assert mean.compute() == 0.5


def accelerate() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert (accelerator.process_index, accelerator.num_processes) == (allranks.get_rank(), 2)
    model, optimizer = nn.Linear(3, 2), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(model(torch.ones(4, 3) * allranks.get_rank()).square().mean())
    optimizer.step()
    same_on_all(model.module.weight)
    assert accelerator.reduce(torch.ones(1)) == 2


def lightning_fabric() -> None:
    from lightning_fabric import Fabric

    here, hosts = allranks.get_local_world_size(), allranks.get_num_nodes()
    fabric = Fabric(accelerator="cpu", strategy="ddp", devices=here, num_nodes=hosts)
    fabric.launch()
    assert (fabric.global_rank, fabric.world_size) == (allranks.get_rank(), 2)
    model = nn.Linear(3, 2)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    fabric.backward(model(torch.ones(4, 3) * fabric.global_rank).square().mean())
    optimizer.step()
    assert fabric.all_reduce(torch.ones(1), reduce_op="sum") == 2


CHECKS = (
    ddp,
    fsdp2,
    device_mesh,
    distributed_sampler,
    distributed_checkpoint,
    torchmetrics,
    accelerate,
    lightning_fabric,
)


def configuration() -> object:
    """The settings as a Hydra program has them, from a file and the command line's override."""
    from hydra import compose, initialize_config_dir

    with tempfile.TemporaryDirectory() as directory:
        text = "world_size: 2\ncpu: null\ntimeout: 5\nlr: 0.1\n"
        (Path(directory) / "config.yaml").write_text(text)
        with initialize_config_dir(directory, version_base=None):
            return compose("config", overrides=["cpu=true", "+init_method=null"])


def outcome(check: Callable[[], None]) -> str:
    """What is to be said of a check: ok, or the traceback."""
    try:
        check()
    except Exception:  # noqa: BLE001 - it is shown
        return traceback.format_exc()
    return "ok"


def main() -> None:
    """Run all checks in one world, which a Hydra configuration describes."""
    with allranks.session(configuration()):
        for check in CHECKS:
            told = " | ".join(outcome(check).splitlines())
            os.write(1, f"CHECK {check.__name__} {told}\n".encode())
            if not allranks.agree(told == "ok", "all"):
                sys.exit(1)
    os.write(1, b"CHECK session ok\n")


if __name__ == "__main__":
    main()
