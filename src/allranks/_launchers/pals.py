"""``mpiexec`` of HPE PALS, on Cray systems with PBS.

After Slurm and Flux, which may set its variables. Not recorded: names from Slurm's mpi/cray_shasta
and Flux's cray-pals plugins, which set what PALS sets; PALS_LOCAL_SIZE from scripts of Aurora's
users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import (
    VariableNames,
    first_set,
    joined,
    numbered_otherwise,
    place,
    require_size,
)
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PMI_LOCAL_SIZE", "PALS_NODEID"
)


def read(environ: Environ) -> WorldFields | None:
    """``mpiexec`` of HPE PALS, on Cray systems with PBS."""
    if NAMES.rank not in environ or "SLURM_JOB_ID" in environ:
        return None
    size = first_set(environ, "PMI_SIZE", "WORLD_SIZE")
    if size == "WORLD_SIZE" and numbered_otherwise(environ, NAMES.rank):
        return None
    local_size = first_set(environ, "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE")
    require_size(environ, NAMES.rank, size)
    here = place(environ, NAMES._replace(world_size=size, local_world_size=local_size))
    here["job"] = joined("pals", environ.get("PALS_APID"))
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "PALS_APID": "4711",
    }


READER = Reader(
    "pals", read, simulate, ("PALS_RANKID",), sets_too=("mpich", "pmix"), prefixes=("PALS_",)
)
