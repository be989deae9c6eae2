"""The environment that any launcher would give a process, for tests of code that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from allranks._launchers import readers
from allranks._launchers.detect import ENV, Launcher
from allranks._launchers.readers import Names
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIXES = (
    "ALLRANKS_",
    "FLUX_",
    "GROUP_",
    "HYDI_",
    "JOBSET_",
    "JOB_COMPLETION_",
    "JSM_",
    "KUBERNETES_",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "LSB_",
    "MASTER_",
    "MPI_LOCAL",
    "NODE_RANK",
    "OMPI_",
    "PALS_",
    "PET_",
    "PMIX_",
    "PMI_",
    "RANK",
    "RAY_",
    "ROLE_",
    "SLURM",
    "TORCHELASTIC_",
    "WORLD_SIZE",
)
"""How the variables begin by which any launcher tells a place."""

TABLES: dict[Launcher, Names] = {
    "allranks": readers.ALLRANKS,
    "torchrun": readers.TORCHRUN,
    "openmpi": readers.OPENMPI._replace(master_addr="", master_port=""),
    "mpich": readers.HYDRA._replace(master_addr="", master_port=""),
    "pmix": readers.PMIX,
    "flux": readers.FLUX._replace(master_addr="", master_port=""),
    "pals": readers.PALS._replace(master_addr="", master_port=""),
    "lsf": readers.LSF._replace(master_addr="", master_port=""),
    "slurm": readers.SLURM._replace(master_addr="", master_port=""),
    "ray": readers.RAY,
    "kubernetes": Names("JOB_COMPLETION_INDEX", "WORLD_SIZE"),
    "env": ENV,
}

ALWAYS: dict[Launcher, dict[str, str]] = {
    "allranks": {"ALLRANKS_RUN_ID": "fake", "ALLRANKS_STORE": "/nonexistent/store"},
    "torchrun": {
        "TORCHELASTIC_RUN_ID": "fake",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    },
    "openmpi": {"PMIX_NAMESPACE": "4711"},
    "pmix": {"PMIX_NAMESPACE": "4711"},
    "flux": {"FLUX_JOB_ID": "4711"},
    "pals": {"PALS_APID": "4711"},
    "lsf": {"LSB_JOBID": "4711"},
    "slurm": {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"},
    "ray": {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": "4711"},
    "kubernetes": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
}


@dataclass(frozen=True)
class Place:
    """A process's place, its ranks in blocks of ``ranks_per_node``."""

    rank: int
    ranks: int
    ranks_per_node: int

    @property
    def node(self) -> int:
        """Its host's number."""
        return self.rank // self.ranks_per_node

    @property
    def nodes(self) -> int:
        """The number of hosts."""
        return -(-self.ranks // self.ranks_per_node)

    @property
    def local_rank(self) -> int:
        """Its number on its host."""
        return self.rank % self.ranks_per_node

    def on(self, node: int) -> range:
        """The ranks of a host."""
        first = node * self.ranks_per_node
        return range(first, min(first + self.ranks_per_node, self.ranks))


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
    each = ranks_per_node or (1 if launcher == "kubernetes" else ranks)
    _check(launcher, rank, ranks, each)
    if launcher == "single":
        return {}
    place = Place(rank, ranks, each)
    return {**_named(TABLES[launcher], place), **ALWAYS.get(launcher, {}), **_more(launcher, place)}


def is_launchers(name: str) -> bool:
    """Whether a variable is one by which launchers tell a place."""
    return name.startswith(PREFIXES)


def _check(launcher: Launcher, rank: int, ranks: int, each: int) -> None:
    fixed = {"single": ranks, "allranks": ranks, "kubernetes": 1}.get(launcher, each)
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


def _named(names: Names, place: Place) -> dict[str, str]:
    values: Iterable[object] = (
        place.rank,
        place.ranks,
        place.local_rank,
        len(place.on(place.node)),
        place.node,
        place.nodes,
        "127.0.0.1" if place.nodes == 1 else "node0",
        29500,
    )
    return {name: str(value) for name, value in zip(names, values, strict=True) if name}


def _more(launcher: Launcher, place: Place) -> dict[str, str]:
    """What a launcher tells in a form of its own."""
    if launcher == "slurm":
        counts = [str(len(place.on(node))) for node in range(place.nodes)]
        return {
            "SLURM_GTIDS": ",".join(map(str, place.on(place.node))),
            "SLURM_STEP_TASKS_PER_NODE": ",".join(counts),
            "SLURM_STEP_NODELIST": ",".join(f"node{node}" for node in range(place.nodes)),
            "SLURMD_NODENAME": f"node{place.node}",
        }
    if launcher == "openmpi":
        return {"PMIX_RANK": str(place.rank), "OMPI_MCA_orte_num_nodes": str(place.nodes)}
    return {}
