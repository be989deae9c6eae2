"""A job whose last rank is killed in a window between two phases: `dying.py setup` or `split`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import allranks
from allranks._process_group import bring_up
from allranks._transport import process_groups


def die(*_: object, **__: object) -> NoReturn:
    """As the kernel does it that needs the memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def main() -> None:
    """Come up and split the world, and say what ended it."""
    if allranks.get_rank() == allranks.get_world_size() - 1:
        if sys.argv[1] == "setup":
            bring_up.init_process_group = die
        process_groups.new_group = die
    try:
        with allranks.session(cpu=True, timeout=0.2, rendezvous_timeout=30, stall_after=4):
            allranks.split(0)
    except allranks.errors.AllranksError as error:
        print(f"TOLD rank {allranks.get_rank()}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
