"""What the watch costs a loop of small collectives: the same loop with it, and without.

Fresh ranks run the loop in turns, with and without; a ratio is made of two neighbours, and the
median of the ratios is shown.

    python benchmarks/watch.py
"""

from __future__ import annotations

import os
import time
from statistics import median

import torch
from rich.console import Console
from rich.progress import track

import allranks
from startup_tables import Grid

CALLS, ROUNDS = 3000, 15


def seconds_a_call() -> float:
    """The mean over a loop of small collectives, on one rank."""
    with allranks.session(cpu=True):
        tensor = torch.zeros(1)
        for _ in range(100):
            allranks.all_reduce(tensor)
        began = time.perf_counter()
        for _ in range(CALLS):
            allranks.all_reduce(tensor)
        return (time.perf_counter() - began) / CALLS


def measured(ranks: int, watch: str) -> float:
    """Seconds per call on rank 0, of a fresh job."""
    os.environ["ALLRANKS_WATCH"] = watch
    return allranks.launch(seconds_a_call, ranks=ranks)[0]


def row(ranks: int) -> tuple[str, ...]:
    """A line of the table."""
    pairs = []
    for turn in track(range(ROUNDS), f"{ranks} ranks", transient=True):
        order = ("1", "0") if turn % 2 else ("0", "1")
        each = {watch: measured(ranks, watch) for watch in order}
        pairs.append((each["1"], each["0"]))
    on, off = (median(times) for times in zip(*pairs, strict=True))
    ratios = sorted(watched / bare for watched, bare in pairs)
    middle = f"{median(ratios):.3f}x"
    spread = f"{ratios[ROUNDS // 4]:.3f}x to {ratios[-1 - ROUNDS // 4]:.3f}x"
    return str(ranks), f"{on * 1e6:.0f} us", f"{off * 1e6:.0f} us", middle, spread


def main() -> None:
    """Measure, and print the table."""
    head = ("ranks", "with the watch", "without", "ratio", "middle half of the ratios")
    rows = tuple(row(ranks) for ranks in (2, 4))
    Console().print(Grid("all_reduce of 4 bytes, per call", head, rows).rich())


if __name__ == "__main__":
    main()
