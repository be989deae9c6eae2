"""Submitit's local executor: all tasks of a job as processes of this host.

After all that such a task may start (torchrun, mpirun), before Slurm: it runs in Slurm's jobs, too,
and starts no steps; the Slurm executor does, and its tasks are srun's. Recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "SUBMITIT_LOCAL_GLOBALID",
    "SUBMITIT_LOCAL_NTASKS",
    "SUBMITIT_LOCAL_LOCALID",
    node_rank="SUBMITIT_LOCAL_NODEID",
    num_nodes="SUBMITIT_LOCAL_JOB_NUM_NODES",
)


def read(environ: Environ) -> WorldFields | None:
    """Submitit's local executor."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES, num_nodes=1)
    here["job"] = joined("submitit", environ.get("SUBMITIT_LOCAL_JOB_ID"))
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "SUBMITIT_LOCAL_JOB_ID": "4711",
    }


READER = Reader("submitit", read, simulate, NAMES[:2], prefixes=("SUBMITIT_LOCAL_",))
