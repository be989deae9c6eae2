"""What the job will do: torch's process group comes up, and one collective of each kind is made."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from allranks._collectives.all_reduce import all_reduce, reduce
from allranks._collectives.all_to_all import all_to_all
from allranks._collectives.broadcast import broadcast
from allranks._collectives.objects import (
    all_gather_objects,
    broadcast_object,
    gather_objects,
    scatter_objects,
)
from allranks._collectives.point_to_point import recv, send
from allranks._collectives.tensors import all_gather, reduce_scatter, synchronize
from allranks._collectives.to_one_rank import gather
from allranks._doctor.checks import FAILURE, OK, Check
from allranks._process_group import devices
from allranks._process_group.connect_errors import GLOO_INTERFACE
from allranks._process_group.init_group import init_process_group
from allranks._system.accelerator import on_same_device
from allranks._system.waiting import BackgroundCall, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings
    from allranks._rendezvous.meeting import Meeting
    from allranks._system.waiting import Deadline

NUMBERS = 2**16
"""Numbers of 4 bytes that a rank gives: more than what travels within the agreement on a call."""


class Rank(NamedTuple):
    """Who makes a call, with what."""

    rank: int
    world_size: int
    device: torch.device

    def tensor(self, value: float) -> torch.Tensor:
        """A tensor of one value, which has an equal part for each rank."""
        import torch

        count = -(-NUMBERS // self.world_size) * self.world_size
        return torch.full((count,), float(value), device=self.device)


def group_row(wanted: Settings, world: World, meeting: Meeting | None, deadline: Deadline) -> Check:
    """Bring torch's group up. Collective.

    Args:
        wanted: the settings of the trial.
        world: this process's world.
        meeting: where the ranks have met; None in a world of one.
        deadline: when to give up.
    """
    import torch.distributed as dist

    began = time.monotonic()
    try:
        init_process_group(wanted, world, meeting, deadline)
        BackgroundCall(on_same_device(synchronize)).result(deadline.left)
    except (RuntimeError, StillRunning, ValueError) as error:
        return Check("group", FAILURE, _in_words(error), _remedy())
    seen = f"{dist.get_backend_config()}, in {_milliseconds(began)}"
    return Check("group", OK, seen)


def collective_rows(world: World, deadline: Deadline) -> Iterator[Check]:
    """Make one collective of each kind, until one fails. Collective."""
    caller = Rank(world.rank, world.world_size, devices.device())
    for call in CALLS:
        row = _row(call, caller, deadline)
        yield row
        if row.status != OK:
            return


def _row(call: Callable[[Rank], bool], caller: Rank, deadline: Deadline) -> Check:
    began, name = time.monotonic(), call.__name__.lstrip("_")
    try:
        right = BackgroundCall(on_same_device(lambda: call(caller))).result(deadline.left)
    except (RuntimeError, StillRunning, ValueError) as error:
        return Check(name, FAILURE, _in_words(error), _remedy())
    if not right:
        return Check(name, FAILURE, "the result is wrong", "export TORCH_DISTRIBUTED_DEBUG=DETAIL")
    return Check(name, OK, f"{_milliseconds(began)}, on {caller.device}")


def _milliseconds(began: float) -> str:
    return f"{1000 * (time.monotonic() - began):.3g} ms"


def _in_words(error: Exception) -> str:
    return str(error) or "it did not end in time"


def _remedy() -> str:
    if devices.get_device_type() == "cuda":
        return "export NCCL_DEBUG=INFO"
    return f"export {GLOO_INTERFACE}={os.environ.get(GLOO_INTERFACE, 'eth0')}"


def _all_reduce(caller: Rank) -> bool:
    return _is(all_reduce(caller.tensor(1)), caller.world_size)


def _reduce(caller: Rank) -> bool:
    found = reduce(caller.tensor(1))
    return caller.rank != 0 or _is(found, caller.world_size)


def _broadcast(caller: Rank) -> bool:
    tensor = caller.tensor(caller.rank)
    broadcast(tensor, 0)
    return _is(tensor, 0)


def _all_gather(caller: Rank) -> bool:
    return _are_ranks(all_gather(caller.tensor(caller.rank)))


def _gather(caller: Rank) -> bool:
    found = gather(caller.tensor(caller.rank))
    return caller.rank != 0 or _are_ranks(found or ())


def _reduce_scatter(caller: Rank) -> bool:
    return _is(reduce_scatter(caller.tensor(1)), caller.world_size)


def _all_to_all(caller: Rank) -> bool:
    return _are_ranks(all_to_all(caller.tensor(caller.rank)))


def _send_and_recv(caller: Rank) -> bool:
    """From rank 0 to the last one."""
    last = caller.world_size - 1
    if caller.rank == 0 and last:
        send(caller.tensor(1), last)
    if caller.rank == last and last:
        return _is(recv(0), 1)
    return True


def _objects(caller: Rank) -> bool:
    """All four that move what pickle can carry."""
    ranks = list(range(caller.world_size))
    told = scatter_objects(ranks) == caller.rank and broadcast_object("x") == "x"
    gathered = gather_objects(caller.rank, dst=0)
    return told and all_gather_objects(caller.rank) == ranks and gathered in (None, ranks)


def _barrier(_: Rank) -> bool:
    synchronize()
    return True


CALLS: tuple[Callable[[Rank], bool], ...] = (
    _all_reduce,
    _reduce,
    _broadcast,
    _all_gather,
    _gather,
    _reduce_scatter,
    _all_to_all,
    _send_and_recv,
    _objects,
    _barrier,
)


def _is(tensor: torch.Tensor | None, value: float) -> bool:
    return tensor is not None and bool((tensor == value).all())


def _are_ranks(tensors: Sequence[torch.Tensor]) -> bool:
    return all(_is(tensor, rank) for rank, tensor in enumerate(tensors))
