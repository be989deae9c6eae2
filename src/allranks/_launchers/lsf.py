"""LSF's ``jsrun``.

Before Open MPI, whose variables it sets as well. Not recorded: names from Lightning's
LSFEnvironment page and Open MPI's JSM examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_SIZE",
    "JSM_NAMESPACE_LOCAL_RANK",
    "JSM_NAMESPACE_LOCAL_SIZE",
)


def read(environ: Environ) -> WorldFields | None:
    """LSF's ``jsrun``."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES)
    # One LSF job can hold several jsruns and, as an array, several elements.
    known = ("LSB_JOBID", "LSB_JOBINDEX", "PMIX_NAMESPACE")
    here["job"] = joined("lsf", *map(environ.get, known))
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "LSB_JOBID": "4711",
    }


READER = Reader(
    "lsf",
    read,
    simulate,
    NAMES[:2],
    sets_too=("openmpi", "mpich", "pmix"),
    prefixes=("JSM_", "LSB_"),
)
