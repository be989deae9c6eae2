"""Runs the programs of collectives in a file, and leaves each rank's results beside it.

python collectives.py FILE
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))

from programs import run


def main() -> None:
    """Run all steps in one world."""
    import allranks

    path = Path(sys.argv[1])
    steps = pickle.loads(path.read_bytes())
    rank, size = allranks.get_rank(), allranks.get_world_size()
    results = run(steps, size)
    path.with_name(f"{path.name}.{rank}").write_bytes(pickle.dumps(results))
    os.write(1, f"DONE {rank}\n".encode())


if __name__ == "__main__":
    main()
