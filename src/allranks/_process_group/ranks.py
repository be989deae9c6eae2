"""Who is this process? As set up, else as its launcher tells it."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, TypeVar

from allranks._process_group import environment
from allranks._process_group.lifecycle import world
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import ParamSpec

    from allranks._transport.process_groups import Group

    P = ParamSpec("P")

T = TypeVar("T")

NOT_IN_GROUP = -1
"""The rank, and the size, that torch gives a process which is not in a group."""


@outside_graphs
def get_rank(group: Group | None = None) -> int:
    """This process's rank; 0 in a world of one. Not collective.

    Before ``setup`` this is what the launcher says, so N processes are never N rank 0s.

    Args:
        group: a process group, or a mesh of one dimension; None means WORLD.

    Returns:
        The rank within the group; as in torch, -1 on a rank that is not in it.

    Raises:
        CollectiveError: the group was destroyed, or no process group is up.
        DetectionError: nothing is set up, and the environment is half-set.
    """
    if group is not None:
        return _within(group)[0]
    try:
        return world().rank
    except DetectionError:
        rank = environment.described_rank()
        if rank is None:
            raise
        return rank  # setup_env_local_multi_gpu() need not know the number of ranks.


@outside_graphs
def get_world_size(group: Group | None = None) -> int:
    """The number of ranks; 1 in a world of one. Not collective.

    Args:
        group: a process group, or a mesh of one dimension; None means WORLD.

    Returns:
        The number of ranks in the group; as in torch, -1 on a rank that is not in it.

    Raises:
        CollectiveError: the group was destroyed, or no process group is up.
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return world().world_size if group is None else _within(group)[1]


@outside_graphs
def get_dist_info() -> tuple[int, int]:
    """``(get_rank(), get_world_size())``, as mmcv names it. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    now = world()
    return now.rank, now.world_size


def _within(group: Group) -> tuple[int, int]:
    """This process's rank in a group, and the group's size."""
    if process_groups.is_no_group(group):
        return NOT_IN_GROUP, NOT_IN_GROUP
    members = process_groups.members_of("get_rank", group)
    return members.rank, members.size


@outside_graphs
def is_master() -> bool:
    """Whether this is rank 0. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return get_rank() == 0


@outside_graphs
def master_only(fn: Callable[P, T]) -> Callable[P, T | None]:
    """Make a function do nothing but on rank 0, as a decorator. Not collective.

    Elsewhere it returns None at once, and hears nothing of an exception on rank 0. Where the
    others need the result, or must wait for it, use ``on_master``, which shares both.

    Args:
        fn: any function.

    Returns:
        A function that calls it on rank 0, and returns None on the others.
    """

    @wraps(fn)
    def on_rank_0(*args: P.args, **kwargs: P.kwargs) -> T | None:
        return fn(*args, **kwargs) if is_master() else None

    return on_rank_0


@outside_graphs
def get_local_rank() -> int:
    """This process's number among the ranks on its host. Not collective.

    Raises:
        DetectionError: it is not known before ``setup``.
    """
    return _known("local_rank")


@outside_graphs
def get_local_world_size() -> int:
    """The number of ranks on this host. Not collective.

    Raises:
        DetectionError: it is not known before ``setup``.
    """
    return _known("local_world_size")


@outside_graphs
def get_node_rank() -> int:
    """This host's number in the job, in the order of the ranks. Not collective.

    Raises:
        DetectionError: it is not known before ``setup``.
    """
    return _known("node_rank")


@outside_graphs
def get_num_nodes() -> int:
    """The number of hosts in the job. Not collective.

    Raises:
        DetectionError: it is not known before ``setup``.
    """
    return _known("num_nodes")


def _known(name: str) -> int:
    now = world()
    value: int | None = getattr(now, name)
    if value is None:
        raise DetectionError(
            f"{name} is not known: {now.launcher} does not tell it. setup() counts the ranks of "
            "each host; ask after it."
        )
    return value
