"""How users' editors and type checkers see the API: type-checked, never run."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

import allranks
from allranks import distutils


def use(*values: object) -> None:
    """Take what a program has got; each name stands for the type that it is annotated with."""


def lifecycle() -> None:
    """Settings are checked by name and type."""
    allranks.setup()
    allranks.setup({"cpu": True, "anything": object()})
    allranks.setup(cpu=True, timeout=5, rendezvous_timeout=timedelta(seconds=30), check="lines")
    allranks.setup(bind="numa")
    allranks.setup(bind="cores")  # type: ignore[arg-type]
    allranks.setup(wrold_size=3)  # type: ignore[call-arg]
    allranks.setup(cpu="yes")  # type: ignore[arg-type]
    with allranks.session(world_size=2) as world:
        rank: int = world.rank
        local: int | None = world.local_rank
    assert rank == allranks.get_rank() != local
    distutils.cleanup()


def collectives(group: dist.ProcessGroup, tensor: torch.Tensor, array: NDArray[np.float64]) -> None:
    """The same kind of thing comes back."""
    reduced: torch.Tensor = allranks.all_reduce(tensor, group, True, "cpu")
    number: float = allranks.all_reduce(0.5, op="max")
    metrics: dict[str, float] = allranks.all_reduce({"loss": 0.5})
    summed: NDArray[np.float64] = allranks.all_reduce(array)
    gathered: list[torch.Tensor] = allranks.all_gather(tensor)
    objects: list[str] | None = allranks.gather_objects("text", group=group)
    everybodys: list[str] = allranks.all_gather_objects("text")
    sent: str = allranks.broadcast_object("text", src=1)
    work: dist.Work | None = allranks.broadcast(tensor, 0, async_op=True)
    allranks.broadcast_object_list([1, "two"], src=0)
    allranks.synchronize(group=group)
    use(reduced, number, metrics, summed, gathered, objects, everybodys, sent, work)


def between_ranks(tensor: torch.Tensor, model: torch.nn.Module) -> None:
    """One rank gets what all would get, the others None; parts are of the kind that is given."""
    mesh = allranks.mesh({"dp": 2, "tp": -1})
    total: float | None = allranks.reduce(0.5, dst=1, group=mesh["dp"])
    rows: list[torch.Tensor] | None = allranks.gather(tensor, dst=1)
    parts: list[torch.Tensor] = allranks.all_to_all(tensor.unbind())
    joined: torch.Tensor = allranks.all_to_all(tensor, cat=True)
    words: list[str] = allranks.all_to_all(["a", "b"])
    weights: dict[str, torch.Tensor] = allranks.broadcast({"weight": tensor}, 0)
    everything: torch.Tensor = allranks.autograd.all_gather(tensor, cat=True)
    each: list[torch.Tensor] = allranks.autograd.all_gather(tensor)
    allranks.sync_module(model)
    allranks.check_same(model, "the model", group=mesh["dp"])
    allranks.send(words, 1, timeout=3.5)
    allranks.get_logger(__name__).info("here", ranks=(0, 1), in_order=True)
    allranks.all_reduce(tensor, op=dist.ReduceOp.SUM)
    use(total, rows, parts, joined, words, weights, everything, each)


@allranks.master_only
def written(path: str) -> int:
    """On rank 0."""
    return len(path)


def on_one_rank() -> None:
    """Nothing on the others."""
    length: int | None = written("model.pt")
    made: int = allranks.on_master(lambda: 3, per="node")
    with allranks.print_on_master(), allranks.master_first(per="node"):
        assert length == made


class Squares:
    """A map-style data set."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> float:
        return float(index**2)


def training(group: dist.ProcessGroup, array: NDArray[np.float64], metrics: torch.Tensor) -> None:
    """A shard is of the kind of the whole, and so is what is gathered."""
    seed: int = allranks.seed_all(7, per_rank=False) + allranks.shared_seed(group=group)
    numbers: range = allranks.shard(100)
    names: list[str] = allranks.shard(["a", "b"], group)
    rows: NDArray[np.float64] = allranks.shard(array)
    squares: list[float] = allranks.shard(Squares())
    sampler = allranks.ShardSampler(Squares(), shuffle=True, seed=seed)
    state: dict[str, int] = sampler.state_dict(0)
    everywhere: dict[str, torch.Tensor] = allranks.gather_shards({"loss": metrics})
    on_one: list[float] | None = allranks.gather_shards(squares, sampler.indices, group, dst=1)
    use(numbers, names, rows, squares, state, everywhere, on_one)
