"""Every launcher and geometry: how a program is started there, and on which hosts its ranks run.

The tests run allranks in each of them, `benchmarks/launchers.py` its peers as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hosts import Running
    from slurm_cluster import Slurm

TASKS_BY_HOST = ("sh", "-c", 'echo "$SLURM_PROCID $(hostname)"')


@dataclass(frozen=True)
class Srun:
    """A step of Slurm.

    Attributes:
        name: what it is called in the table.
        options: those of srun.
        hostfile: the host of each task, for ``-m arbitrary``.
    """

    name: str
    options: tuple[str, ...]
    hostfile: tuple[str, ...] = field(default=())

    def start(self, cluster: Slurm, program: tuple[str, ...]) -> Running:
        """Start a program as a step."""
        environ = {}
        if self.hostfile:
            path = cluster.base / "hostfile"
            path.write_text("\n".join(self.hostfile) + "\n")
            environ["SLURM_HOSTFILE"] = str(path)
        return cluster.start("srun", *self.options, *program, environ=environ)

    def hosts(self, cluster: Slurm) -> list[str]:
        """The host of each rank, as Slurm itself tells it."""
        out = self.start(cluster, TASKS_BY_HOST).ended().out
        pairs = sorted((int(rank), host) for rank, host in map(str.split, out.splitlines()))
        return [host for _, host in pairs]


STEPS = (
    Srun("4 hosts, 1 task each", ("-N4", "-n4")),
    Srun("2 hosts, 2 tasks each", ("-N2", "-n4", "--ntasks-per-node=2")),
    Srun("1 host, 4 tasks", ("-N1", "-n4")),
    Srun("2 hosts, 3 tasks", ("-N2", "-n3")),
    Srun("2 hosts, -m cyclic", ("-N2", "-n4", "-m", "cyclic")),
    Srun(
        "3 hosts, -m arbitrary, rank 0 on the last",
        ("-N3", "-n4", "-m", "arbitrary"),
        ("h3", "h3", "h1", "h2"),
    ),
    Srun("2 hosts, --mpi=pmi2", ("-N2", "-n4", "--mpi=pmi2")),
)
