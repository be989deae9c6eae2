"""What ``all_reduce`` of a tensor on a GPU costs, beside ``torch.distributed.all_reduce``.

One rank for each GPU of this host, over NCCL. Both calls take turns, from 4 B to 256 MiB:

- host: until the call returns, the GPU being idle; the median of single calls.
- device: from the first of many calls in a row to the end of the last on the GPU, for each call.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console

import allranks
from allranks._system import words
from startup_tables import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = tuple(4 << shift for shift in range(0, 27, 2))
"""Bytes: 4 B to 256 MiB."""

TURNS = 30
IN_A_ROW = 20


class Times(NamedTuple):
    """Microseconds of one call.

    Attributes:
        host: until it returns.
        device: on the GPU, each of many in a row.
    """

    host: float
    device: float


def host_time(call: Callable[[], object]) -> float:
    """Microseconds until a call returns."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def device_time(call: Callable[[], object]) -> float:
    """Microseconds of each of several calls in a row, on the GPU."""
    first: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    last: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    first.record()
    for _ in range(IN_A_ROW):
        call()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e3 / IN_A_ROW


def measured(size: int) -> list[Times]:
    """Ours and torch's for a tensor of so many bytes."""
    tensor = torch.zeros(size // 4, device="cuda")
    calls = (lambda: allranks.all_reduce(tensor), lambda: dist.all_reduce(tensor))
    for call in calls:
        device_time(call)
    turns = [[Times(host_time(call), device_time(call)) for call in calls] for _ in range(TURNS)]
    return [
        Times(*(median(column) for column in zip(*of, strict=True)))
        for of in zip(*turns, strict=True)
    ]


def row(size: int) -> tuple[str, ...]:
    """A line of the table."""
    ours, torchs = measured(size)
    host = (f"{ours.host:.1f}", f"{torchs.host:.1f}", f"{ours.host - torchs.host:+.1f}")
    device = (f"{ours.device:.1f}", f"{torchs.device:.1f}", f"{ours.device / torchs.device:.2f}x")
    return (words.size(size), *host, *device)


def rank() -> None:
    """One rank: all measure, the first one prints."""
    with allranks.session(cpu=False) as world:
        rows = tuple(row(size) for size in SIZES)
        head = ("size", "host us", "torch's", "more", "device us", "torch's", "of it")
        title = f"all_reduce on {world.world_size} x {torch.cuda.get_device_name()}, NCCL"
        if allranks.is_master():
            Console(width=120).print(Grid(title, head, rows).rich())


def main() -> None:
    """Start a rank for each GPU, or say that there is none."""
    if sys.argv[1:] == ["rank"]:
        rank()
    elif gpus := torch.cuda.device_count():
        command = [sys.executable, "-m", "allranks", "run", "-n", str(gpus), __file__, "rank"]
        sys.exit(subprocess.run(command, check=False).returncode)
    else:
        print("torch sees no GPU here: nothing was measured. It takes a host with one or more.")


if __name__ == "__main__":
    main()
