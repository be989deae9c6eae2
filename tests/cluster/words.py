"""What allranks says where something is wrong: tests wait for it, the launchers' pages quote it."""

from __future__ import annotations

NO_ADDRESS = "nothing says where rank 0 runs"
WAYS = ("set MASTER_ADDR", "setup(shared_file_dir=...)", "install mpi4py")
OTHER_MPI = "mpi4py was built for another MPI"
NO_MPI4PY = "mpi4py, which could carry its address, cannot be used"
ONE_BATCH_PROCESS = "but not started by srun: a world of one"
KILLED = "was killed by SIGKILL"
GONE = "is gone, and its store with it"
UNPLUGGED = "no answer from h4"
NOT_FOR_GLOO = "does not hold for gloo"
FIREWALL = "gloo did not connect them"
NO_PORT = "gloo found no free port to listen on"

ALL = (
    NO_ADDRESS,
    *WAYS,
    OTHER_MPI,
    NO_MPI4PY,
    ONE_BATCH_PROCESS,
    KILLED,
    GONE,
    UNPLUGGED,
    NOT_FOR_GLOO,
    FIREWALL,
    NO_PORT,
)
