"""``horovodrun`` with its Gloo controller, and Horovod on Ray and Spark.

After Ray Train, whose workers have RANK, and before MPI and Slurm, through whose allocations it
reaches the hosts; under its MPI controller the processes are mpirun's. Not recorded: names from
slot_env_vars of horovod/runner/gloo_run.py. HOROVOD_GLOO_RENDEZVOUS_ADDR is where horovodrun runs,
which need not be rank 0's host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

# A cross rank counts the hosts that have this local rank: it is no host's number where they differ.
NAMES = VariableNames("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
STORE = ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT")


def read(environ: Environ) -> WorldFields | None:
    """``horovodrun`` with its Gloo controller, and Horovod on Ray and Spark."""
    if NAMES.rank not in environ and NAMES.world_size not in environ:
        return None
    here = place(environ, NAMES)
    # Its own store is the same on all hosts, and another for each job.
    here["job"] = joined("horovod", *map(environ.get, STORE))
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        **dict(zip(STORE, ("10.0.0.1", "4711"), strict=True)),
    }


READER = Reader("horovod", read, simulate, NAMES[:2], prefixes=("HOROVOD_",))
