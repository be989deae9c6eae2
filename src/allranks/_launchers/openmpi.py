"""Open MPI's ``mpirun``.

Before Slurm, through which it starts its daemons, and whose variables are then theirs. Recorded;
AZ_BATCH_MASTER_NODE, the first host and a port of Azure's own, from AzureML's page on distributed
training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, hosts_fit, joined, number, on_one_host, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

# OMPI_COMM_WORLD_NODE_RANK is no node's number: it counts the ranks on a node.
NAMES = VariableNames(
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)


def read(environ: Environ) -> WorldFields | None:
    """Open MPI's ``mpirun``."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES)
    if here.get("num_nodes") is None:
        # It counts the daemons, some of which may have no rank: believed only if it can be true.
        daemons = number(environ, "OMPI_MCA_orte_num_nodes")
        on_this_host = here["local_world_size"]
        if daemons == 1 and on_this_host is None:
            here = on_one_host(here)
        elif daemons and daemons > 1 and hosts_fit(here["world_size"], on_this_host, daemons):
            here["num_nodes"] = daemons
    if here.get("num_nodes") != 1 and (first := environ.get("AZ_BATCH_MASTER_NODE")):
        here["hosts"] = (first.rpartition(":")[0] or first,)
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
    here["job"] = joined("openmpi", job)
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "PMIX_NAMESPACE": "4711",
        "PMIX_RANK": str(process.rank),
        "OMPI_MCA_orte_num_nodes": str(process.nodes),
    }


READER = Reader(
    "openmpi",
    read,
    simulate,
    (*NAMES[:2], "AZ_BATCH_MASTER_NODE"),
    sets_too=("pmix",),
    prefixes=("OMPI_",),
)
