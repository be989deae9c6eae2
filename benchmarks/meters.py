"""What it costs to synchronise meters: ours, against two of torch's collectives for each meter.

Both take turns on the same ranks, on the CPU; a ratio is made within a turn, and the median is
shown: above 1x, ours is faster. The peer does what the family of DETR does for each meter: a
barrier, and an all_reduce of a tensor of two 64-bit floats.

    python benchmarks/meters.py
    python benchmarks/meters.py --ranks 2 4 --meters 20
    python benchmarks/meters.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from rich.console import Console

import allranks
from allranks.meters import MetricLogger
from startup_tables import Grid, machine

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 5
"""Turns that are not counted."""


def filled(meters: int) -> MetricLogger:
    """A logger with so many meters, each with one number."""
    logger = MetricLogger()
    logger.update(**{f"metric_{i}": i / 7 for i in range(meters)})
    return logger


def synchronize_each(logger: MetricLogger) -> None:
    """The peer: two collectives for each meter, one meter after the other."""
    for meter in logger.meters.values():
        both = torch.tensor([meter.count, meter.total], dtype=torch.float64)
        dist.barrier()
        dist.all_reduce(both)
        meter.count, meter.total = both.tolist()


def timed(call: Callable[[], None]) -> float:
    """Seconds that a call takes, when all ranks begin it together."""
    dist.barrier()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(meters: int, turns: int) -> list[tuple[float, float]]:
    """On a rank: seconds of each turn, ours first.

    Args:
        meters: how many there are.
        turns: how often both are timed.
    """
    with allranks.session(cpu=True):
        seconds = []
        for _ in range(WARM_UP + turns):
            ours, theirs = filled(meters), filled(meters)
            mine = timed(ours.synchronize_between_processes)
            seconds.append((mine, timed(partial(synchronize_each, theirs))))
            check(ours, theirs)
    return seconds[WARM_UP:]


def check(ours: MetricLogger, theirs: MetricLogger) -> None:
    """Stop where the two do not agree.

    Raises:
        RuntimeError: they do not.
    """
    for name, meter in ours.meters.items():
        other = theirs.meters[name]
        if meter.count != other.count or abs(meter.total - other.total) > 1e-9:
            raise RuntimeError(f"{name}: {meter.total} of {meter.count}, not {other.total}")


def result(ranks: int, meters: int, turns: int) -> dict[str, Any]:
    """What rank 0 measured on so many ranks: medians, in seconds."""
    seconds = allranks.launch(measured, (meters, turns), ranks=ranks)[0]
    ours, theirs = (median(each) for each in zip(*seconds, strict=True))
    ratio = median(their / our for our, their in seconds)
    return {"ranks": ranks, "meters": meters, "ours": ours, "theirs": theirs, "faster": ratio}


def table(results: list[dict[str, Any]]) -> Grid:
    """The results for people."""
    rows = tuple(
        (
            f"{one['meters']} meters, {one['ranks']} ranks",
            f"{one['ours'] * 1e6:.0f} us",
            f"{one['theirs'] * 1e6:.0f} us",
            f"{one['faster']:.1f}x",
        )
        for one in results
    )
    head = ("", "ours", "barrier and all_reduce each", "faster")
    return Grid("synchronize_between_processes, medians", head, rows)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[4], help="default: 4")
    parser.add_argument("--meters", type=int, default=20, help="default: 20")
    parser.add_argument("--turns", type=int, default=100, help="default: 100")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    results = [result(ranks, options.meters, options.turns) for ranks in options.ranks]
    if options.json:
        told = {"machine": machine(), "load": load, "results": results}
        json.dump(told, sys.stdout, indent=2)
        print()
    else:
        console = Console()
        console.print(f"{machine()}; load when it began: {load:.1f}")
        console.print(table(results).rich())


if __name__ == "__main__":
    main()
