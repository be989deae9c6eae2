"""One rank is late, for calls that exchange headers, or for bare tensors; all tell who it was."""

from __future__ import annotations

import json
import sys
import time

import torch

import allranks
from jobs import MARK

CULPRIT = 1


def main() -> None:
    """Be late again and again, or wait."""
    torch.set_num_threads(1)
    with allranks.session(cpu=True, rendezvous_timeout=60) as world:
        for _ in range(12):
            if world.rank == CULPRIT:
                time.sleep(0.1)
            allranks.all_reduce({"loss": 1.0} if sys.argv[1] == "numbers" else torch.ones(3))
        found = allranks.stragglers()
        worst = found.ranks[0]
        told = {"rank": world.rank, "worst": worst.rank, "host": worst.host, "last": worst.last}
        told |= {"waited": worst.waited, "seconds": found.seconds, "at": time.time()}
        print(MARK + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
