"""What files of helpers do by hand, beside ours: meters, modules, ragged parts, comparisons.

Both take turns on the same ranks, on the CPU; a ratio is made within a turn, and the median is
shown: above 1x, ours is faster. The peers are written as such files have them:

* meters: a barrier and an all_reduce for each of 20 meters, as the family of DETR does.
* module: a broadcast for each of 300 parameters and buffers.
* ragged: parts padded to the largest one, and an all_to_all of equal parts; one part is large.
* compare: a hash of 64 MB, on this rank alone, which compares nothing yet.

    python benchmarks/dist_utils.py
    python benchmarks/dist_utils.py --ranks 2 4 --only module ragged
    python benchmarks/dist_utils.py --json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

import allranks
from allranks.meters import MetricLogger
from startup_tables import Grid, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    Pair = tuple[Callable[[], object], Callable[[], object]]
    """What is timed: ours, and the peer's."""

WARM_UP = 3
"""Turns that are not counted."""


def meters() -> Pair:
    """Loggers with 20 meters each."""
    loggers = []
    for _ in range(2):
        logger = MetricLogger()
        logger.update(**{f"metric_{i}": i / 7 for i in range(20)})
        loggers.append(logger)
    return loggers[0].synchronize_between_processes, partial(synchronize_each, loggers[1])


def synchronize_each(logger: MetricLogger) -> None:
    """Two collectives for each meter, one meter after the other."""
    for meter in logger.meters.values():
        both = torch.tensor([meter.count, meter.total], dtype=torch.float64)
        dist.barrier()
        dist.all_reduce(both)


def module() -> Pair:
    """A module of 300 tensors of a kilobyte or two."""
    layers = [nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)) for _ in range(75)]
    whole = nn.Sequential(*layers)
    return partial(allranks.sync_module, whole), partial(broadcast_each, whole)


def broadcast_each(whole: nn.Module) -> None:
    """One collective for each tensor."""
    with torch.no_grad():
        for tensor in whole.state_dict().values():
            dist.broadcast(tensor, 0)


def ragged() -> Pair:
    """Parts of some kilobytes, but for one of 16 MB that rank 0 sends to the last."""
    rank, size = allranks.get_dist_info()
    rows = [2**12 if (rank, i) == (0, size - 1) else 4 for i in range(size)]
    parts = [torch.full((count, 1024), float(rank)) for count in rows]
    return partial(allranks.all_to_all, parts), partial(all_to_all_padded, parts)


def all_to_all_padded(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tell the sizes, pad to the largest, exchange, and cut."""
    size = len(parts)
    mine = torch.tensor([len(part) for part in parts])
    sizes = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(sizes, mine)
    largest = int(torch.stack(sizes).max())
    padded = torch.zeros(size, largest, parts[0].shape[1])
    for i, part in enumerate(parts):
        padded[i, : len(part)] = part
    into = torch.empty_like(padded)
    dist.all_to_all_single(into, padded)
    rank = dist.get_rank()
    return [into[i, : int(sizes[i][rank])] for i in range(size)]


def compare() -> Pair:
    """64 MB in 64 tensors, equal on all ranks."""
    data = [torch.full((2**18,), float(i)) for i in range(64)]
    return partial(allranks.check_same, data), partial(hash_all, data)


def hash_all(data: list[torch.Tensor]) -> bytes:
    """A hash of all data, by the same function."""
    found = hashlib.blake2b(digest_size=16)
    for tensor in data:
        memory: Any = tensor.numpy()
        found.update(memoryview(memory))
    return found.digest()


class Case(NamedTuple):
    """What is measured.

    Attributes:
        prepare: makes both calls anew, on a rank.
        told: the case for people.
        peer: the peer for people.
    """

    prepare: Callable[[], Pair]
    told: str
    peer: str


CASES = {
    "meters": Case(meters, "20 meters", "two collectives each"),
    "module": Case(module, "300 tensors of a module", "a broadcast each"),
    "ragged": Case(ragged, "ragged parts", "padded to the largest"),
    "compare": Case(compare, "64 MB compared", "hashed on one rank alone"),
}


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes, when all ranks begin it together."""
    dist.barrier()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(name: str, turns: int) -> list[tuple[float, float]]:
    """On a rank: seconds of each turn, ours first.

    Args:
        name: the case.
        turns: how often both are timed.
    """
    with allranks.session(cpu=True):
        seconds = []
        for _ in range(WARM_UP + turns):
            ours, theirs = CASES[name].prepare()
            seconds.append((timed(ours), timed(theirs)))
    return seconds[WARM_UP:]


def result(name: str, ranks: int, turns: int) -> dict[str, Any]:
    """What rank 0 measured on so many ranks: medians, in seconds."""
    seconds = allranks.launch(measured, (name, turns), ranks=ranks)[0]
    ours, theirs = (median(each) for each in zip(*seconds, strict=True))
    ratio = median(their / our for our, their in seconds)
    return {"case": name, "ranks": ranks, "ours": ours, "theirs": theirs, "faster": ratio}


def table(results: list[dict[str, Any]]) -> Grid:
    """The results for people."""
    rows = tuple(
        (
            f"{CASES[one['case']].told}, {one['ranks']} ranks",
            f"{one['ours'] * 1e3:.2f} ms",
            f"{one['theirs'] * 1e3:.2f} ms, {CASES[one['case']].peer}",
            f"{one['faster']:.1f}x",
        )
        for one in results
    )
    return Grid("ours and by hand, medians", ("", "ours", "by hand", "faster"), rows)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[4], help="default: 4")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=30, help="default: 30")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    pairs = [(name, ranks) for ranks in options.ranks for name in options.only]
    results = [result(name, ranks, options.turns) for name, ranks in pairs]
    if options.json:
        json.dump({"machine": machine(), "load": load, "results": results}, sys.stdout, indent=2)
        print()
    else:
        console = Console()
        console.print(f"{machine()}; load when it began: {load:.1f}")
        console.print(table(results).rich())


if __name__ == "__main__":
    main()
