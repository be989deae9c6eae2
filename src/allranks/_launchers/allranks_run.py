"""``allranks run``, ``allranks.launch`` and the pytest plugin: they start the ranks themselves.

First of all, since nothing stands between them and the rank. Source: our own ``local_world``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place, require
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames("ALLRANKS_RANK", "ALLRANKS_WORLD_SIZE", master_addr="", master_port="")


def read(environ: Environ) -> WorldFields | None:
    """``allranks run`` and the pytest plugin: all ranks on this host, with a file to meet in."""
    if "ALLRANKS_RANK" not in environ and "ALLRANKS_WORLD_SIZE" not in environ:
        return None
    require(environ, *NAMES[:2], "ALLRANKS_STORE", "ALLRANKS_RUN_ID")
    here = place(environ, NAMES, num_nodes=1)
    here["store_path"] = environ["ALLRANKS_STORE"]
    here["job"] = joined("allranks", environ["ALLRANKS_RUN_ID"])
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    own = {"ALLRANKS_RUN_ID": "fake", "ALLRANKS_STORE": "/nonexistent/store"}
    return {**process.variables(NAMES), **own}


READER = Reader(
    "allranks", read, simulate, ("ALLRANKS_RUN_ID", *NAMES[:2]), prefixes=("ALLRANKS_",)
)
