"""Any other PMI-1 launcher: the rank and the size are all that the protocol promises.

After those who speak the protocol: Flux clears PMI_*, srun may set them (``--mpi=pmi2``). Not
recorded alone: PMI-1 is MPICH's, and Hydra and srun, which speak it, have files of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields

NAMES = VariableNames("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")


def read(environ: Environ) -> WorldFields | None:
    """Any other PMI-1 launcher: the rank and the size are all that the protocol promises."""
    return None if "SLURM_JOB_ID" in environ else read_pmi(environ, NAMES)


def read_pmi(environ: Environ, names: VariableNames) -> WorldFields | None:
    """By the variables of PMI-1, whoever set them; None where the rank is not set."""
    if names.rank not in environ:
        return None
    here = place(environ, names)
    # Hydra says nothing that is the same on all hosts; an address given by the user is.
    address = environ.get("PMI_JOBID"), here["master_addr"], here["master_port"]
    here["job"] = joined("mpich", *address)
    return here


READER = Reader("mpich", read, None, NAMES[:2], sets_too=("pmix",))
