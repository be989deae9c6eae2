"""A task of ``flux run``; the shells of ``flux alloc`` and ``flux batch`` are none.

Before PALS, whose variables it may set. Not recorded: names from flux-environment(7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "FLUX_TASK_RANK",
    "FLUX_JOB_SIZE",
    "FLUX_TASK_LOCAL_ID",
    num_nodes="FLUX_JOB_NNODES",
)


def read(environ: Environ) -> WorldFields | None:
    """A task of ``flux run``; the shells of ``flux alloc`` and ``flux batch`` are none."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES)
    here["job"] = joined("flux", environ.get("FLUX_JOB_ID"))
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "FLUX_JOB_ID": "4711",
    }


READER = Reader(
    "flux", read, simulate, NAMES[:2], sets_too=("pals", "mpich", "pmix"), prefixes=("FLUX_",)
)
