"""A PMIx launcher that sets nothing else; it does not put the size in the environment.

After all who speak the protocol. Not recorded alone: the PMIx standard has clients ask the server
for the size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import (
    VariableNames,
    joined,
    numbered_otherwise,
    place,
    require_size,
)
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames("PMIX_RANK", "WORLD_SIZE")


def read(environ: Environ) -> WorldFields | None:
    """A PMIx launcher that sets nothing else; it does not put the size in the environment."""
    if not {"PMIX_RANK", "PMIX_NAMESPACE"} <= environ.keys() or "SLURM_JOB_ID" in environ:
        return None
    if numbered_otherwise(environ, NAMES.rank):
        return None
    require_size(environ, NAMES.rank, NAMES.world_size)
    here = place(environ, NAMES)
    here["job"] = joined("pmix", environ["PMIX_NAMESPACE"])
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {**process.variables(NAMES), "PMIX_NAMESPACE": "4711"}


READER = Reader("pmix", read, simulate, ("PMIX_RANK", "PMIX_NAMESPACE"), prefixes=("PMIX_",))
