"""Any other PMI-1 launcher: the rank and the size are all that the protocol promises.

After those who speak the protocol: Flux clears PMI_*, srun may set them (``--mpi=pmi2``). Not
recorded alone: PMI-1 is MPICH's, and Hydra and srun, which speak it, have files of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader
from allranks._launchers.slurm import in_batch_script

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields

NAMES = VariableNames("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")


def read(environ: Environ) -> WorldFields | None:
    """Any other PMI-1 launcher: the rank and the size are all that the protocol promises."""
    return None if "SLURM_JOB_ID" in environ else read_pmi(environ, NAMES)


_BESIDE = {
    "PMI_RANK": "PMI_SIZE",
    "PMI_SIZE": "PMI_RANK",
    "MPI_LOCALRANKID": "PMI_RANK",
    "PMIX_RANK": "PMIX_NAMESPACE",
    "PALS_RANKID": "PMI_SIZE",
}
"""Each of their variables, with one that is always beside it."""


def lost(environ: Environ) -> tuple[str, ...]:
    """PMI's and PMIx' variables, where others are missing: srun sets them, too (``--mpi=pmi2``)."""
    told = [name for name in _BESIDE if name in environ]
    if not told or in_batch_script(environ) or environ.get("PMI_SIZE", "").strip() == "1":
        return ()
    step = ("SLURM_STEP_ID",) if "SLURM_JOB_ID" in environ else ()
    return tuple(dict.fromkeys([*told, *(_BESIDE[name] for name in told), *step]))


def read_pmi(environ: Environ, names: VariableNames) -> WorldFields | None:
    """By the variables of PMI-1, whoever set them; None where the rank is not set."""
    if names.rank not in environ:
        return None
    here = place(environ, names)
    # Hydra says nothing that is the same on all hosts; a port given by the user is.
    here["job"] = joined("mpich", environ.get("PMI_JOBID"), here["master_port"])
    return here


READER = Reader("mpich", read, None, NAMES[:2], sets_too=("pmix",), lost=lost)
