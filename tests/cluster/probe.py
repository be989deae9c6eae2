"""What each rank of a job runs: comes up with no setting, and reports where it stands.

python probe.py [setting=value ...]
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict

began = time.monotonic()

import allranks  # noqa: E402 - the import is part of the time
from jobs import MARK  # noqa: E402


def settings() -> dict[str, object]:
    """The settings on the command line; what looks like JSON is."""
    given: dict[str, object] = {"cpu": True, "rendezvous_timeout": 40}
    for argument in sys.argv[1:]:
        name, text = argument.split("=", 1)
        given[name] = text
        with suppress(ValueError):
            given[name] = json.loads(text)
    return given


def report(world: allranks.World) -> None:
    """Make one collective, and write one line."""
    total = allranks.all_reduce(world.rank + 1)
    told = {
        **asdict(world),
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "total": total,
        "seconds": time.monotonic() - began,
        "at": time.time(),
    }
    os.write(1, f"{MARK}{json.dumps(told)}\n".encode())  # In one write, so that lines stay whole.


if __name__ == "__main__":
    with allranks.session(**settings()) as mine:
        report(mine)
