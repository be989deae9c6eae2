"""One rank of ``collectives.py``: times our call and a peer's, turn by turn."""

from __future__ import annotations

import gc
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

import allranks

if TYPE_CHECKING:
    from collections.abc import Callable

MEGABYTES_64 = 64 * 10**6


class Case(NamedTuple):
    """A pair of calls.

    Attributes:
        name: what ours does.
        peer: what the other one is.
        turns: how often both are timed.
        make: makes both calls, on a rank.
        received: bytes that rank 0 receives from the others, where its memory is looked at.
    """

    name: str
    peer: str
    turns: int
    make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
    received: Callable[[], int] | None = None


class Measured(NamedTuple):
    """What a rank measured: seconds of each turn, and the memory; ours first."""

    seconds: list[tuple[float, float]]
    memory: tuple[float, float] | None


def tree_of_200() -> dict[str, torch.Tensor]:
    """The metrics of a training step."""
    return {f"metric/{i}": torch.tensor(float(i)) for i in range(200)}


def rows(count: int) -> torch.Tensor:
    """So many rows of 128 floats."""
    return torch.ones(count, 128)


def ragged() -> torch.Tensor:
    """Few rows on even ranks, many on odd ones."""
    return rows(20_000 if allranks.get_rank() % 2 else 100)


def array_of(size: int) -> dict[str, Any]:
    """An object that holds a large array."""
    return {"array": np.ones(size // 8)}


def one_large() -> dict[str, Any]:
    """64 MB on the last rank, a few bytes on the others."""
    last = allranks.get_rank() == allranks.get_world_size() - 1
    return array_of(MEGABYTES_64 if last else 8)


def tree_and_accelerate() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One exchange, and one all_reduce for each leaf."""
    from accelerate.utils import reduce

    tree = tree_of_200()
    return lambda: allranks.all_reduce(tree, average=True), lambda: reduce(tree)


def ragged_and_accelerate() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Exact sizes, and padding to the largest."""
    from accelerate.utils import gather, pad_across_processes

    mine = ragged()
    return lambda: allranks.all_gather(mine), lambda: gather(pad_across_processes(mine))


def tree_and_raw() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """200 leaves, and one tensor of as many numbers."""
    tree, flat = tree_of_200(), torch.ones(200)
    return lambda: allranks.all_reduce(tree), lambda: dist.all_reduce(flat)


def number_and_raw() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A Python number, and a tensor of one element."""
    one = torch.ones(1)
    return lambda: allranks.all_reduce(1.5), lambda: dist.all_reduce(one)


def tensor_and_raw(size: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same tensor through both."""
    tensor = torch.zeros(size)
    return lambda: allranks.all_reduce(tensor), lambda: dist.all_reduce(tensor)


def checked_and_not() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The price of ``check=True``."""
    import os

    tensor = torch.zeros(1)

    def checked() -> None:
        os.environ["ALLRANKS_CHECK"] = "1"
        allranks.all_reduce(tensor)
        del os.environ["ALLRANKS_CHECK"]

    return checked, lambda: allranks.all_reduce(tensor)


def equal_and_raw() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """As many rows on all ranks."""
    mine = rows(20_000)
    size = allranks.get_world_size()
    return lambda: allranks.all_gather(mine), lambda: dist.all_gather(
        [torch.empty_like(mine) for _ in range(size)], mine
    )


def objects_and_torch(
    made: Callable[[], Any],
) -> Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]:
    """The objects of all ranks on rank 0."""

    def both() -> tuple[Callable[[], Any], Callable[[], Any]]:
        mine = made()
        into = [None] * allranks.get_world_size() if allranks.is_master() else None
        return lambda: allranks.gather_objects(mine), lambda: dist.gather_object(mine, into)

    return both


CASES = (
    Case("all_reduce, dict of 200 tensors", "accelerate.reduce", 10, tree_and_accelerate),
    Case("all_reduce, dict of 200 tensors", "dist.all_reduce, 200 floats", 60, tree_and_raw),
    Case("all_reduce, a Python number", "dist.all_reduce, 1 float", 100, number_and_raw),
    Case("all_reduce, 4 B", "dist.all_reduce", 300, lambda: tensor_and_raw(1)),
    Case("all_reduce, 4 KB", "dist.all_reduce", 100, lambda: tensor_and_raw(1000)),
    Case("all_reduce, 1 MB", "dist.all_reduce", 60, lambda: tensor_and_raw(250_000)),
    Case("all_reduce, 64 MB", "dist.all_reduce", 10, lambda: tensor_and_raw(16_000_000)),
    Case("all_reduce, 4 B, check=True", "all_reduce, 4 B", 100, checked_and_not),
    Case("all_gather, ragged rows", "accelerate, pad and gather", 10, ragged_and_accelerate),
    Case("all_gather, equal rows", "dist.all_gather", 10, equal_and_raw),
    Case(
        "gather_objects, 64 MB each",
        "dist.gather_object",
        5,
        objects_and_torch(lambda: array_of(MEGABYTES_64)),
        lambda: MEGABYTES_64 * (allranks.get_world_size() - 1),
    ),
    Case(
        "gather_objects, 64 MB on one",
        "dist.gather_object",
        5,
        objects_and_torch(one_large),
        lambda: MEGABYTES_64,
    ),
)


def measured(name: str, peer: str) -> Measured:
    """On a rank: one case.

    Args:
        name: its name.
        peer: its peer's.
    """
    case = next(case for case in CASES if (case.name, case.peer) == (name, peer))
    warnings.simplefilter("ignore")
    with allranks.session(cpu=True):
        if "accelerate" in peer:
            from accelerate import PartialState

            PartialState(cpu=True)
        ours, theirs = case.make()
        seconds = [(timed(ours), timed(theirs)) for _ in range(case.turns + 3)][3:]
        memory = None
        if case.received:
            received = case.received()
            memory = rise(ours) / received, rise(theirs) / received
    return Measured(seconds, memory)


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes, when all ranks begin it together."""
    dist.barrier()
    began = time.perf_counter()
    result = call()
    ended = time.perf_counter()
    del result  # Which takes time of its own, and not the call's.
    return ended - began


def rise(call: Callable[[], Any]) -> float:
    """Bytes by which resident memory rises at most above its level before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
    before = status("VmRSS")
    result = call()
    peak = status("VmHWM") - before
    del result
    return peak


def status(name: str) -> float:
    """A number of bytes in this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))
