"""Real ranks of one host, as many as its memory holds: up, calls, a quiet time, an end; and faults.

    python benchmarks/scale_real.py --ranks 8 32 64 128 --json

A job forks its ranks after one import of torch; they meet over TCP, as ranks of several hosts do.
Where more ranks run than there are cores, wall time is a matter of luck: counts say more, and the
time of torch's own collective, in turns with ours, says what the machine can do at that moment.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._launch.template import preload
from allranks._system import descriptors, sockets
from forked_ranks import cpu_of_children, told_by_all
from scale_worker import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator

CLEAN = "import allranks\nwith allranks.session(cpu=True):\n    allranks.all_reduce(1)\n"

FAILING = """\
import allranks
with allranks.session(cpu=True) as world:
    allranks.all_reduce(1)
    if world.rank == world.world_size - 1:
        raise LookupError("no shard 7")
    allranks.all_reduce(1)
"""

TRIVIAL = "import torch\n"

LIMIT = 600
"""Seconds after which a command is ended; it bounds nothing else."""


class Command(NamedTuple):
    """What `allranks run` of a script cost, and printed.

    Attributes:
        lines: how many it printed.
        seconds: of wall time.
        cpu: seconds of it and of its ranks.
        code: its exit code.
    """

    lines: int
    seconds: float
    cpu: float
    code: int


def job(part: str, size: int) -> list[dict[str, Any]]:
    """What each rank of a job tells of a part."""
    descriptors.make_room(3 * size)
    port = sockets.free_port()
    environs = [
        {
            "RANK": str(number),
            "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(number),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for number in range(size)
    ]
    return told_by_all(environs, lambda _: _tell(part), quiet=True)


def _tell(part: str) -> dict[str, Any]:
    """What a rank tells of a part; what it says where it fails."""
    try:
        return PARTS[part]()
    except Exception:  # noqa: BLE001 - told as it is
        return {"wrong": traceback.format_exc()}


def command(script: str, size: int) -> Command:
    """What `allranks run` does with a script on so many ranks."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "train.py"
        path.write_text(script)
        before, began = cpu_of_children(), time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "allranks", "run", "-n", str(size), str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    cpu, seconds = cpu_of_children() - before, time.monotonic() - began
    return Command(len(done.stdout.splitlines()), seconds, cpu, done.returncode)


def measured(size: int) -> dict[str, Any]:
    """All parts of one size."""
    steady, failed, stalled = (job(part, size) for part in PARTS)
    _check(size, steady, failed, stalled)
    times: dict[str, list[float]] = steady[0]["calls"]
    began = min(one["began"] for one in steady)
    clean, failing, trivial = (command(one, size) for one in (CLEAN, FAILING, TRIVIAL))
    return {
        "ranks": size,
        "up": max(one["up"] for one in steady) - began,
        "calls": {name: 1e3 * statistics.median(of) for name, of in times.items()},
        "messages": max(one["messages"] for one in steady),
        "messages of rank 0": steady[0]["messages"],
        "sockets": max(one["sockets"] for one in steady[1:]),
        "quiet operations": sum(one["quiet"] for one in steady),
        "down": max(one["down"] for one in steady) - max(one["quiet until"] for one in steady),
        "failure heard": max(one["heard"] for one in failed[:-1]) - failed[-1]["raised"],
        "lines of a failure": failing.lines,
        "lines of a clean end": clean.lines,
        "run CPU s": trivial.cpu,
        "run s": trivial.seconds,
    }


def _check(size: int, *parts: list[dict[str, Any]]) -> None:
    """Every rank has told of every part, and has blamed nobody but the culprit."""
    for told in parts:
        wrong = [f"rank {rank}: {one}" for rank, one in enumerate(told) if one.get("wrong", one)]
        if wrong:
            raise ValueError(f"{len(wrong)} of {size} ranks: {'; '.join(wrong[:3])}")


def rows(worlds: list[dict[str, Any]]) -> Iterator[str]:
    """Each figure of each size, in a line."""
    for one in worlds:
        calls = {f"{name} ms": value for name, value in one["calls"].items()}
        figures = {**{name: value for name, value in one.items() if name != "calls"}, **calls}
        yield ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32, 64, 128])
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    preload()
    worlds = [measured(size) for size in asked.ranks]
    if asked.json:
        print(json.dumps(worlds, indent=1))
    else:
        print("\n".join(rows(worlds)))


if __name__ == "__main__":
    main()
