"""MVAPICH2's ``mpirun_rsh``.

After Open MPI and before MPICH, whose PMI variables it may set as well; before Slurm, through which
it may start its daemons. Not recorded: names from mpispawn.c in MVAPICH2's sources, which sets
these four beside PMI_ID. People set MV2_COMM_WORLD_LOCAL_SIZE alone, for other programs to read, so
that it says nothing of a launcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "MV2_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)


def read(environ: Environ) -> WorldFields | None:
    """MVAPICH2's ``mpirun_rsh``."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES)
    # It says nothing that is the same on all hosts; a port given by the user is.
    here["job"] = joined("mvapich", here["master_port"])
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return process.variables(NAMES._replace(master_addr="", master_port=""))


READER = Reader(
    "mvapich", read, simulate, NAMES[:2], sets_too=("mpich", "pmix"), prefixes=("MV2_COMM_WORLD_",)
)
