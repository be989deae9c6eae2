"""``torchrun``, and what is built on it; its groups are its agents, one for each host.

Before all that may have started an agent: srun, mpirun, a pod. Recorded; source: torch's page on
torchrun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, number, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"
)


def read(environ: Environ) -> WorldFields | None:
    """``torchrun`` and what is built on it; its groups are its agents, one for each host."""
    run = environ.get("TORCHELASTIC_RUN_ID")
    if not run:
        return None
    here = place(environ, NAMES)
    here["agent_store"] = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    here["attempt"] = number(environ, "TORCHELASTIC_RESTART_COUNT") or 0
    # Two runs may be given one id ("none" by default); their agents have ports of their own.
    here["job"] = joined("torchrun", run, here["master_port"])
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES),
        "TORCHELASTIC_RUN_ID": "fake",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


READER = Reader(
    "torchrun",
    read,
    simulate,
    ("TORCHELASTIC_RUN_ID", *NAMES[:2]),
    prefixes=("TORCHELASTIC_", "GROUP_", "ROLE_", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
)
