"""Who is this process? As set up, else as its launcher tells it."""

from __future__ import annotations

from allranks._process_group.lifecycle import world
from allranks._system.graph_breaks import outside_graphs
from allranks.errors import DetectionError


@outside_graphs
def get_rank() -> int:
    """This process's rank; 0 in a world of one. Not collective.

    Before ``setup`` this is what the launcher says, so N processes are never N rank 0s.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return world().rank


@outside_graphs
def get_world_size() -> int:
    """The number of ranks; 1 in a world of one. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return world().world_size


@outside_graphs
def is_master() -> bool:
    """Whether this is rank 0. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return get_rank() == 0


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
