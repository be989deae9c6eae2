"""A job that fails on one rank in its first attempts, and then goes through.

python restarted.py DIRECTORY ATTEMPTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import allranks
from probe import report


def main() -> None:
    """Fail on rank 1 until enough failures are on record."""
    directory, attempts = Path(sys.argv[1]), int(sys.argv[2])
    with allranks.session(cpu=True, rendezvous_timeout=40) as world:
        failed = len(list(directory.glob("failed*")))
        allranks.all_reduce(1)
        if failed < attempts:
            if world.rank == 1:
                (directory / f"failed{failed}").touch()
                raise RuntimeError(f"failure {failed}, as asked")
            while True:
                allranks.all_reduce(1)
        report(world)


if __name__ == "__main__":
    main()
