"""Modules whose tensors are the same on all ranks."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from allranks._collectives.all_reduce import all_reduce
from allranks._collectives.broadcast import broadcast
from allranks._system.graph_breaks import outside_graphs

if TYPE_CHECKING:
    import torch

    from allranks._transport.process_groups import Group

STATISTICS = ("running_mean", "running_var")
"""What batch norms of torch, timm and others call the statistics that each rank gathers."""


@outside_graphs
def sync_module(module: torch.nn.Module, src: int = 0, *, group: Group | None = None) -> None:
    """Copy one rank's parameters and buffers into the module of all ranks, in place. Collective.

    All of them travel in a few large messages, those that are not in ``state_dict()`` too. As DDP
    does it once, for modules that are not wrapped in it.

    Args:
        module: of the same structure, shapes and dtypes on all ranks.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        CollectiveError: as for ``broadcast``; a sharded module (FSDP) has no tensors of its own.
        MismatchError: the modules differ in a name, a shape or a dtype, or the ranks made
            different calls. Nothing was changed.
    """
    broadcast(tensors_of(module), src, group)


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A module's parameters and buffers, by their names."""
    return dict(chain(module.named_parameters(), module.named_buffers()))


@outside_graphs
def average_buffers(module: torch.nn.Module, *, group: Group | None = None) -> None:
    """Average the running statistics of a module's batch norms over the ranks. Collective.

    That is before an evaluation, or a checkpoint, with batch norms that are not synchronised
    (timm's ``distribute_bn``). Averaged are the buffers named ``running_mean`` and
    ``running_var``; all other buffers stay as they are. In a world of one nothing changes.

    Args:
        module: of the same structure on all ranks.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        CollectiveError: a statistic cannot be averaged, or this rank is not in the group.
        MismatchError: the modules differ, or the ranks made different calls.
    """
    import torch

    mine = {
        name: buffer
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2] in STATISTICS
    }
    averaged = all_reduce(mine, group, average=True)
    with torch.no_grad():
        for name, buffer in mine.items():
            buffer.copy_(averaged[name])
