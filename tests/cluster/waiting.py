"""A job that waits for its last rank: that sleeps, is stopped, or is deep in other code."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import allranks


def deep_in_c() -> None:
    """In code that holds the interpreter's lock for longer than anybody waits."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def main() -> None:
    """Wait, or be waited for."""
    with allranks.session(cpu=True, rendezvous_timeout=60, stall_after=500) as world:
        allranks.all_reduce(1)
        if world.rank == world.world_size - 1:
            {
                "sleep": lambda: time.sleep(500),
                "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
                "deep": deep_in_c,
            }[sys.argv[1]]()
        allranks.all_reduce({"loss": 1.0})


if __name__ == "__main__":
    main()
