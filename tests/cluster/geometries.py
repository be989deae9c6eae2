"""Every launcher and geometry: how a script is started there, and on which hosts its ranks run.

The tests run allranks in each of them, `benchmarks/launchers.py` its peers as well.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from hosts import Network, Running
    from mpi import Kind, Mpi
    from slurm_cluster import Slurm

    Script: TypeAlias = tuple[str, ...]
    Start: TypeAlias = Callable[["Lab", Script], list[Running]]

PYTHON = sys.executable
TORCHRUN = (PYTHON, "-m", "torch.distributed.run")


@dataclass(frozen=True)
class Lab:
    """What there is to start programs with.

    Attributes:
        net: four hosts.
        slurm: Slurm on them.
        mpi: Open MPI and MPICH on them.
    """

    net: Network
    slurm: Slurm
    mpi: Mpi


@dataclass(frozen=True)
class Geometry:
    """A launcher, and where it puts the ranks.

    Attributes:
        launcher: what must be detected.
        name: what it is called in the table.
        hosts: the host of each rank, by rank.
        start: starts a script there.
    """

    launcher: str
    name: str
    hosts: tuple[str, ...]
    start: Start

    def __str__(self) -> str:
        return f"{self.launcher}: {self.name}"


def run(*command: str) -> Start:
    """Start the script by a command before it, on the first host."""
    return lambda lab, script: [lab.net[0].start(*command, *script)]


def srun(*options: str, hostfile: tuple[str, ...] = ()) -> Start:
    """Start the script as a step of Slurm."""

    def start(lab: Lab, script: Script) -> list[Running]:
        environ = {}
        if hostfile:
            path = lab.slurm.base / "hostfile"
            path.write_text("\n".join(hostfile) + "\n")
            environ["SLURM_HOSTFILE"] = str(path)
        return [lab.slurm.start("srun", *options, PYTHON, *script, environ=environ)]

    return start


def salloc(*options: str) -> Callable[..., Start]:
    """Start the script by a command in an allocation."""
    return lambda *command: (
        lambda lab, script: [lab.slurm.start("salloc", *options, *command, *script)]
    )


def mpirun(kind: Kind, environ: Mapping[str, str] | None = None, **per_host: int) -> Start:
    """Start the script under an MPI."""
    return lambda lab, script: [lab.mpi.start(kind, per_host, (PYTHON, *script), environ)]


def with_mpi4py(kind: Kind, **per_host: int) -> Start:
    """Start the script under an MPI that mpi4py can use."""
    return lambda lab, script: [
        lab.mpi.start(kind, per_host, (PYTHON, *script), lab.mpi.mpi4py(kind))
    ]


def with_shared_directory(kind: Kind, **per_host: int) -> Start:
    """Start the script under an MPI, and name a directory that the hosts share."""
    return lambda lab, script: [
        lab.mpi.start(kind, per_host, (PYTHON, *script, f"shared_file_dir={lab.mpi.base}"))
    ]


def torchrun(hosts: int, *options: str) -> Start:
    """Start the script by one torchrun on each host, with two ranks each."""

    def start(lab: Lab, script: Script) -> list[Running]:
        run_id = f"run{time.monotonic_ns()}"
        return [
            host.start(
                *TORCHRUN,
                *(f"--nnodes={hosts}", "--nproc-per-node=2", f"--rdzv-id={run_id}"),
                *(option.format(node=node) for option in options),
                *script,
            )
            for node, host in enumerate(lab.net.hosts[:hosts])
        ]

    return start


def by_hand(**environ: str) -> Start:
    """Start one rank on each of two hosts with the variables of ``env://``."""
    return lambda lab, script: [
        host.start(PYTHON, *script, environ={"RANK": str(rank), "WORLD_SIZE": "2", **environ})
        for rank, host in enumerate(lab.net.hosts[:2])
    ]


ONE, TWO = ("h1",) * 4, ("h1", "h1", "h2", "h2")
C10D = ("--rdzv-backend=c10d", "--rdzv-endpoint=h1:29400")
STATIC = ("--node-rank={node}", "--master-addr=h1", "--master-port=29500")
LAST = ("h3", "h3", "h1", "h2")
PER_NODE = ("--nnodes=2", "--nproc-per-node=2", *C10D, "--rdzv-id=per-node")
# The last job may not have left its hosts yet, and Slurm would take others.
ON_TWO = ("-N2", "-w", "h1,h2")
ALLOCATION = salloc(*ON_TWO, "-n4", "--ntasks-per-node=2")
ON_H1 = {"MASTER_ADDR": "h1"}
NAMED = "MASTER_ADDR=h1"

GEOMETRIES = (
    Geometry("single", "python", ("h1",), run(PYTHON)),
    Geometry(
        "allranks", "run -n 4", ONE, run(PYTHON, "-m", "allranks._cli", "run", "-n4", "--no-fold")
    ),
    Geometry("env", "2 hosts, by hand", ("h1", "h2"), by_hand(**ON_H1, MASTER_PORT="29600")),
    Geometry("torchrun", "1 host, 2 ranks", ONE[:2], torchrun(1, "--standalone")),
    Geometry("torchrun", "2 hosts, c10d", TWO, torchrun(2, *C10D)),
    Geometry("torchrun", "2 hosts, static", TWO, torchrun(2, *STATIC)),
    Geometry(
        "torchrun",
        "one per node under srun",
        TWO,
        salloc(*ON_TWO, "--ntasks-per-node=1")("srun", *TORCHRUN, *PER_NODE),
    ),
    Geometry("slurm", "4 hosts, 1 task each", ("h1", "h2", "h3", "h4"), srun("-N4", "-n4")),
    Geometry("slurm", "2 hosts, 2 tasks each", TWO, srun(*ON_TWO, "-n4", "--ntasks-per-node=2")),
    Geometry("slurm", "1 host, 4 tasks", ONE, srun("-N1", "-n4", "-wh1")),
    Geometry("slurm", "2 hosts, 3 tasks", ("h1", "h1", "h2"), srun(*ON_TWO, "-n3")),
    Geometry(
        "slurm", "2 hosts, -m cyclic", ("h1", "h2", "h1", "h1"), srun(*ON_TWO, "-n4", "-mcyclic")
    ),
    Geometry(
        "slurm",
        "-m arbitrary, rank 0 on the last host",
        LAST,
        srun("-N3", "-n4", "-m", "arbitrary", hostfile=LAST),
    ),
    Geometry(
        "slurm",
        "a step on part of the job",
        ("h3", "h3", "h4", "h4"),
        salloc("-N4", "--ntasks-per-node=2")("srun", "-N2", "-n4", "-w", "h3,h4", PYTHON),
    ),
    Geometry(
        "slurm",
        "a heterogeneous job",
        ("h1", "h2", "h3"),
        srun("-N1", "-n1", "-wh1", ":", "-N2", "-n2", "-wh2,h3"),
    ),
    Geometry(
        "slurm",
        "2 hosts, --mpi=pmi2",
        TWO,
        srun(*ON_TWO, "-n4", "--mpi=pmi2", "--ntasks-per-node=2"),
    ),
    *(
        geometry
        for kind in ("openmpi", "mpich")
        for geometry in (
            Geometry(kind, "1 host", ONE[:2], mpirun(kind, h1=2)),
            Geometry(kind, "2 hosts", TWO, mpirun(kind, ON_H1, h1=2, h2=2)),
            Geometry(kind, "2 hosts, mpi4py", TWO, with_mpi4py(kind, h1=2, h2=2)),
            Geometry(
                kind,
                "2 hosts, a shared directory",
                TWO,
                with_shared_directory(kind, h1=2, h2=2),
            ),
        )
    ),
    Geometry(
        "openmpi",
        "in a Slurm allocation",
        TWO,
        ALLOCATION("mpirun.openmpi", "--allow-run-as-root", "-x", NAMED, PYTHON),
    ),
    Geometry(
        "mpich",
        "in a Slurm allocation",
        TWO,
        ALLOCATION("mpiexec.hydra", "-genv", "MASTER_ADDR", "h1", PYTHON),
    ),
)
