"""Told by MPI: where rank 0 runs. Run by each rank in a process of its own, which then ends.

MPI is initialised and finalised here and not in the rank's own process: both may hold the
interpreter's lock for as long as another rank lets them wait, and MPICH 4.0 over UCX was seen to
stay in MPI_Finalize for good. A launcher lets each rank initialise MPI once: a program that uses
MPI itself imports mpi4py before, and is then asked instead.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def exchanged(message: str) -> dict[str, Any]:
    """Rank 0's message, and who MPI says that this process is; or why there is none."""
    try:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        text = world.bcast(message, root=0)
    except (ImportError, RuntimeError) as error:
        return {"error": str(error)}
    return {"message": text, "rank": world.Get_rank(), "size": world.Get_size()}


def main() -> None:
    """Read this rank's message, and write rank 0's; what MPI itself says goes to standard error."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        out.write(json.dumps(exchanged(sys.stdin.readline())) + "\n")


if __name__ == "__main__":
    main()
