"""One process in each pod of a group of a LeaderWorkerSet.

Beside Kubernetes' other pods, which lack these variables. RANK or LOCAL_RANK show that something
inside the pod has numbered its processes. Not recorded: names from LeaderWorkerSet's page on its
labels, annotations and environment variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames("LWS_WORKER_INDEX", "LWS_GROUP_SIZE")
LEADER = "LWS_LEADER_ADDRESS"


def read(environ: Environ) -> WorldFields | None:
    """One process in each pod of a group of a LeaderWorkerSet."""
    if "RANK" in environ or "LOCAL_RANK" in environ:
        return None
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES, local_world_size=1)
    here["local_rank"] = 0
    here["node_rank"], here["num_nodes"] = here["rank"], here["world_size"]
    leader = environ.get(LEADER)
    here["hosts"] = (leader,) if leader else ()
    here["job"] = joined("lws", leader)
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    told = process.variables(NAMES._replace(master_addr="", master_port=""))
    return {**told, LEADER: "train-0.train.default"}


READER = Reader("lws", read, simulate, (*NAMES[:2], LEADER), prefixes=("LWS_",))
