"""The environment that any launcher would give a process, for tests of code that reads it."""

from __future__ import annotations

from typing import get_args

from allranks._launchers import nodes
from allranks._launchers.detect import READERS
from allranks._launchers.simulated_process import SimulatedProcess
from allranks._launchers.world import Launcher
from allranks.errors import ConfigError

PREFIXES = (*nodes.PREFIXES, *(prefix for reader in READERS for prefix in reader.prefixes))
"""How the variables begin by which any launcher tells a place."""

ONE_IN_EACH_POD = ("kubernetes", "lws")
ON_ONE_HOST = ("single", "allranks", "submitit")


def environment(
    launcher: Launcher, rank: int, ranks: int, ranks_per_node: int | None = None
) -> dict[str, str]:
    """The variables by which a launcher tells a process its place.

    Args:
        launcher: its name.
        rank: the process's rank.
        ranks: how many ranks the job has.
        ranks_per_node: how many of them run on each host; all, or one in each pod of Kubernetes.

    Raises:
        ConfigError: there is no such place under this launcher.
    """
    each = ranks_per_node or (1 if launcher in ONE_IN_EACH_POD else ranks)
    _check(launcher, rank, ranks, each)
    if launcher == "single":
        return {}
    process = SimulatedProcess(rank, ranks, each)
    known = {reader.name: reader.simulate for reader in READERS if reader.simulate}
    return known[launcher](process)


def is_launchers(name: str) -> bool:
    """Whether a variable is one by which launchers tell a place."""
    return name.startswith(PREFIXES)


def _check(launcher: Launcher, rank: int, ranks: int, each: int) -> None:
    """Refuse what this launcher would never set."""
    fixed = 1 if launcher in ONE_IN_EACH_POD else ranks if launcher in ON_ONE_HOST else each
    problem = None
    if launcher not in get_args(Launcher):
        problem = f"unknown launcher; known are {', '.join(get_args(Launcher))}"
    elif not 0 <= rank < ranks:
        problem = f"rank must be from 0 to {ranks - 1}"
    elif launcher == "single" and ranks != 1:
        problem = "without a launcher there is one rank"
    elif each != fixed or each < 1:
        problem = f"this launcher has ranks_per_node={fixed}"
    if problem:
        raise ConfigError(f"fake_world({launcher!r}, rank={rank}, ranks={ranks}): {problem}")
