"""How a rank makes each call of a random program."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

import allranks
from allranks.meters import MetricLogger
from chaos_data import arrays_in, taken, weight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chaos_steps import Step


@dataclass(frozen=True)
class Call:
    """A call, as one rank makes it.

    Attributes:
        step: what is called.
        number: of the step.
        rank: who makes it.
        members: the ranks that make it, in the order of their group.
        group: torch's group; None means WORLD.
        mine: what the rank gives.
        directory: where it may write.
    """

    step: Step
    number: int
    rank: int
    members: tuple[int, ...]
    group: Any
    mine: Any
    directory: Path

    @property
    def root(self) -> int:
        """The rank that sends, or receives alone."""
        return self.members[self.step.src % len(self.members)]

    @property
    def dst(self) -> dict[str, int]:
        """Who receives alone, where it is told."""
        return {"dst": self.root} if self.step.way == "dst" else {}

    @property
    def op(self) -> dict[str, Any]:
        """How the call is told of its operation; the mean in one of two ways."""
        step = self.step
        return {"average": True} if step.op == "mean" and step.src % 2 else {"op": step.op}

    @property
    def cat(self) -> dict[str, Any]:
        """Whether one tensor is asked for."""
        return {"cat": True} if self.step.way == "cat" else {}

    @property
    def per(self) -> dict[str, Any]:
        """Whether one rank of each host goes first."""
        return {"per": "node"} if self.step.way == "node" else {}

    def make(self) -> Any:
        """Make the call; what it gave, or what its data hold then."""
        return MADE[self.step.call](self)


class Net(torch.nn.Module):
    """A module with a parameter, a batch norm, and a buffer that no checkpoint has."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size))
        self.norm = torch.nn.BatchNorm1d(size)
        self.register_buffer("table", torch.zeros(size), persistent=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by their names."""
        named = chain(self.named_parameters(), self.named_buffers())
        return {name: tensor.detach() for name, tensor in named}


def _reduce(call: Call) -> Any:
    got = allranks.reduce(call.mine, call.root, call.group, **call.op)
    return [got, call.mine] if call.step.kind == "tensor" else got


def _broadcast(call: Call) -> Any:
    if call.step.kind != "tensor":
        return _broadcast_tree(call)
    asynchronous = call.step.way == "async"
    work = allranks.broadcast(call.mine, call.root, call.group, async_op=asynchronous)
    if work is not None:
        work.wait()
    return call.mine


def _broadcast_tree(call: Call) -> Any:
    """The tree, its tensors and arrays as they were given, and whether it holds the same ones."""
    got = allranks.broadcast(call.mine, call.root, call.group)
    mine = arrays_in(call.mine)
    pairs = zip(arrays_in(got), mine, strict=True)
    return [got, mine, all(one is other for one, other in pairs)]


def _list(call: Call) -> list[Any]:
    both = [call.mine, allranks.get_rank()]
    allranks.broadcast_object_list(both, call.root, call.group)
    return both


def _send(call: Call) -> Any:
    """One way, or there and back."""
    sender, receiver = call.members
    more: Any = {"tag": call.step.seed % 5, "group": call.group}
    if call.rank == sender:
        allranks.send(call.mine, receiver, **more)
        return allranks.recv(receiver, **more) if call.step.way == "both" else None
    got = allranks.recv(sender, **more)
    if call.step.way == "both":
        allranks.send(call.mine, sender, **more)
    return got


def _master_first(call: Call) -> bool:
    """Whether the body of rank 0 came before this rank's."""
    mark = call.directory / f"turn-{call.number}"
    with allranks.master_first(**call.per):
        if call.rank == 0:
            time.sleep(0.01)
            mark.touch()
        return mark.exists()


def _module(call: Call) -> dict[str, torch.Tensor]:
    """The tensors of a module that holds what was given, after the call."""
    net = Net(call.step.size).to(getattr(torch, call.step.dtype))
    for name, tensor in net.tensors().items():
        tensor.copy_(call.mine[name])
    if call.step.call == "sync_module":
        allranks.sync_module(net, call.root, group=call.group)
    else:
        allranks.average_buffers(net, group=call.group)
    return net.tensors()


def _gather_shards(call: Call) -> Any:
    """This rank's samples, and what came of all."""
    samples, whose = call.mine
    if call.step.way == "indices":
        indices = whose[call.members.index(call.rank)]
        mine = taken(samples, indices)
        return [mine, allranks.gather_shards(mine, indices, call.group)]
    if isinstance(samples, dict):
        mine = taken(samples, allranks.shard(sum(map(len, whose)), call.group))
    else:
        mine = allranks.shard(samples, call.group)
    return [mine, allranks.gather_shards(mine, None, call.group, **call.dst)]


def _save(call: Call) -> Any:
    """What the file holds, once it is said to be there, alone."""
    path = call.directory / f"saved-{call.number}-{call.members[0]}"
    allranks.save(call.mine, path, group=call.group)
    if beside := list(call.directory.glob(f".{path.name}*")):
        return f"beside it: {beside}"
    return torch.load(path, weights_only=False)


def _synchronize_meters(call: Call) -> Any:
    """Count and total of each meter, after each synchronisation."""
    logger, results = MetricLogger(), []
    for updates in call.mine:
        for name, numbers in updates.items():
            for one in numbers:
                logger.update(**{name: one})
        logger.synchronize_between_processes()
        told = logger.meters.items()
        results.append({name: [meter.count, meter.total] for name, meter in told})
    return results


def _gather_with_gradient(call: Call) -> Any:
    data = _asking(call)
    made = allranks.autograd.all_gather(data, call.group)
    weights = [
        weight(call.step, call.rank, one, len(its))
        for one, its in zip(call.members, made, strict=True)
    ]
    products = [w * its for w, its in zip(weights, made, strict=True)]
    torch.autograd.backward(torch.cat(products).sum())
    return [[its.detach() for its in made], data.grad]


def _reduce_with_gradient(call: Call) -> Any:
    data = _asking(call)
    made = allranks.autograd.all_reduce(data, call.group, **call.op)
    torch.autograd.backward((weight(call.step, call.rank, 0, len(made)) * made).sum())
    return [made.detach(), data.grad]


def _asking(call: Call) -> torch.Tensor:
    """What is given, asking for a gradient, or not, where another does."""
    asks = call.step.way != "one asks" or call.rank == call.root
    data: torch.Tensor = call.mine
    return data.requires_grad_(asks)


MADE: dict[str, Callable[[Call], Any]] = {
    "all_reduce": lambda call: allranks.all_reduce(call.mine, call.group, **call.op),
    "reduce": _reduce,
    "all_gather": lambda call: allranks.all_gather(call.mine, call.group, **call.cat),
    "gather": lambda call: allranks.gather(call.mine, call.root, call.group),
    "gather_objects": lambda call: allranks.gather_objects(call.mine, call.group, **call.dst),
    "all_gather_objects": lambda call: allranks.all_gather_objects(call.mine, call.group),
    "all_to_all": lambda call: allranks.all_to_all(call.mine, call.group, **call.cat),
    "broadcast": _broadcast,
    "broadcast_object": lambda call: allranks.broadcast_object(call.mine, call.root, call.group),
    "broadcast_object_list": _list,
    "scatter_objects": lambda call: allranks.scatter_objects(call.mine, call.root, call.group),
    "reduce_scatter": lambda call: allranks.reduce_scatter(call.mine, call.group, **call.op),
    "send": _send,
    "synchronize": lambda call: allranks.synchronize(group=call.group),
    "agree": lambda call: allranks.agree(
        call.mine, "any" if call.step.src % 2 else "all", group=call.group
    ),
    "on_master": lambda call: allranks.on_master(lambda: call.mine, **call.per),
    "master_first": _master_first,
    "should_stop": lambda call: allranks.should_stop(group=call.group),
    "sync_module": _module,
    "average_buffers": _module,
    "check_same": lambda call: allranks.check_same(call.mine, group=call.group),
    "gather_shards": _gather_shards,
    "shared_seed": lambda call: allranks.shared_seed(group=call.group),
    "save": _save,
    "synchronize_between_processes": _synchronize_meters,
    "autograd.all_gather": _gather_with_gradient,
    "autograd.all_reduce": _reduce_with_gradient,
}
"""How each call is made."""
