"""A job that never ends of itself: its ranks reduce until something befalls one of them."""

from __future__ import annotations

import os
import sys
import time

import allranks

STALL_AFTER = 4.0
"""Seconds in one collective after which the ranks tell where they stand."""

TIMEOUT_MINUTES = 0.2

WARM_UP = 25
"""Tenths of a second, in which the watches of the ranks on one host come to know each other."""


def say(text: str) -> None:
    """One line, whole, whatever else is written."""
    os.write(1, f"{text}\n".encode())


def main() -> None:
    """Reduce, and say what ended it."""
    rank = "?"
    try:
        with allranks.session(
            cpu=True, timeout=TIMEOUT_MINUTES, rendezvous_timeout=30, stall_after=STALL_AFTER
        ) as world:
            rank = str(world.rank)
            for _ in range(WARM_UP):
                allranks.all_reduce(1)
                time.sleep(0.1)
            say(f"RUNNING rank {rank} pid {os.getpid()} on {os.uname().nodename}")
            while True:
                allranks.all_reduce(1)
                time.sleep(0.05)
    except allranks.errors.AllranksError as error:
        say(f"TOLD rank {rank}: {type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(1)


if __name__ == "__main__":
    main()
