"""MPICH's and Intel MPI's ``mpiexec``, which are Hydra.

Before Slurm, through which it starts its daemons. MPICH recorded; Intel MPI not: it is Hydra too,
and oneCCL's torch bindings read these four names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames
from allranks._launchers.pmi import read_pmi
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")


def read(environ: Environ) -> WorldFields | None:
    """MPICH's and Intel MPI's ``mpiexec``."""
    if NAMES.local_rank not in environ:
        return None
    return read_pmi(environ, NAMES)


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return process.variables(NAMES._replace(master_addr="", master_port=""))


READER = Reader(
    "mpich",
    read,
    simulate,
    ("MPI_LOCALRANKID", *NAMES[:2]),
    sets_too=("pmix",),
    prefixes=("HYDI_", "MPI_LOCAL", "PMI_"),
)
