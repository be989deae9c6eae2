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

MARK = "REPORT "


def settings() -> dict[str, object]:
    """The settings on the command line; what looks like JSON is."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    for name, text in given.items():
        with suppress(ValueError):
            given[name] = json.loads(text)
    return {"cpu": True, "rendezvous_timeout": 40, **given}


def main() -> None:
    """Come up, make one collective, and write one line."""
    with allranks.session(**settings()) as world:
        total = allranks.all_reduce(world.rank + 1)
        seconds = time.monotonic() - began
        told = {**asdict(world), "host": os.uname().nodename, "pid": os.getpid()}
        report = json.dumps({**told, "total": total, "seconds": seconds})
        os.write(1, f"{MARK}{report}\n".encode())  # In one write, so that lines stay whole.


if __name__ == "__main__":
    main()
