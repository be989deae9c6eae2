"""Groups of the ranks of one host, and of one rank for each host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allranks._collectives.split import no_group, split
from allranks._process_group.lifecycle import world
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks._watch import torch_groups

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._transport.process_groups import Members


@outside_graphs
def node_group() -> dist.ProcessGroup | None:
    """The group of the ranks on this host. Collective over WORLD at the first call.

    Later calls return the same group. In a world of one where ``setup`` was not called, None.

    Raises:
        CollectiveError: ``setup`` was not called.
    """
    return _once("node_group", lambda: world().node_rank)


@outside_graphs
def leaders_group() -> dist.ProcessGroup | None:
    """The group of the first rank of each host. Collective over WORLD at the first call.

    Returns:
        The group, the same at later calls; on the other ranks what stands for no group in torch,
        which every collective refuses. In a world of one where ``setup`` was not called, None.

    Raises:
        CollectiveError: ``setup`` was not called.
    """
    return _once("leaders_group", lambda: None if world().local_rank else 0)


def _once(name: str, color: Any) -> dist.ProcessGroup | None:
    members = process_groups.members_of(name, None)
    if members.group is not None and not _is_kept(members, name):
        made = members.cache[name] = split(color())
        if made is not no_group():
            process_groups.members_of(name, made).on_destroy.callback(members.cache.pop, name, None)
    return members.cache.get(name)


def _is_kept(members: Members, name: str) -> bool:
    """Whether a group was made before, and the program has not destroyed it since."""
    made = members.cache.get(name)
    return made is not None and (made is no_group() or torch_groups.is_up(made))
