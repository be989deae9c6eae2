"""What gloo's three ways to connect cost as ranks grow, on this host: eager, in batches, and lazy.

    python benchmarks/scale_gloo.py --ranks 8,16,32,64 --repeat 3 --json

Each job forks its ranks after one import of torch; they meet in a TCPStore, and use torch alone.
Of each measure, the slowest rank's counts; of several jobs, the median. Where more ranks run than
there are cores, wall time is a matter of luck: the CPU seconds of all ranks say more.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

from forked_ranks import cpu_of_children, sockets, told_by_all

WAYS: dict[str, dict[str, str]] = {
    "eager": {},
    "batched": {"GLOO_ENABLE_STORE_V2_API": "1", "GLOO_ENABLE_RANK_AS_SEQUENCE_NUMBER": "1"},
    "lazy": {"TORCH_GLOO_LAZY_INIT": "1"},
}

TIMEOUT = timedelta(seconds=300)


def rank(number: int, size: int, listener: socket.socket) -> dict[str, float]:
    """One rank: what its group's beginning took, in ms and sockets."""
    import torch
    import torch.distributed as dist

    port = listener.getsockname()[1]
    options: dict[str, Any] = {"wait_for_workers": False, "timeout": TIMEOUT}
    if number == 0:
        options |= {"is_master": True, "master_listen_fd": listener.detach()}
    store = dist.TCPStore("127.0.0.1", port, size, **options)
    store.set(f"here/{number}", "")
    store.wait([f"here/{one}" for one in range(size)])
    begun = time.perf_counter()
    dist.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=TIMEOUT)
    up = time.perf_counter()
    dist.all_reduce(torch.ones(1))
    first = time.perf_counter()
    for _ in range(10):
        dist.all_reduce(torch.ones(1))
    more = time.perf_counter()
    told = {"init": 1e3 * (up - begun), "first": 1e3 * (first - up), "later": 100 * (more - first)}
    told["sockets"] = sockets()
    store.set(f"done/{number}", "")
    if number == 0:
        store.wait([f"done/{one}" for one in range(size)])
        time.sleep(0.1)  # The others' last answers are on their way.
    return told


def job(size: int, way: str) -> dict[str, float]:
    """A job of so many ranks that connect in this way."""
    before = cpu_of_children()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        environs = [{**WAYS[way], "GLOO_SOCKET_IFNAME": "lo"}] * size
        told = told_by_all(environs, lambda number: rank(number, size, listener))
    slowest = {name: max(one[name] for one in told) for name in told[0]}
    slowest["sockets"] = max(one["sockets"] for one in told[1:])  # The first one hosts the store.
    return {**slowest, "cpu": cpu_of_children() - before}


def measured(sizes: list[int], repeat: int) -> list[dict[str, Any]]:
    """All sizes and ways, the ways in turns."""
    rows = []
    for size in sizes:
        jobs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(repeat):
            for way in WAYS:
                jobs[way].append(job(size, way))
        for way, told in jobs.items():
            middle = {
                name: round(statistics.median(one[name] for one in told), 2) for name in told[0]
            }
            rows.append({"ranks": size, "way": way, **middle})
            print(*rows[-1].values(), sep="\t", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", default="8,16,32,64", help="numbers of ranks, by commas")
    parser.add_argument("--repeat", type=int, default=3, help="jobs of each kind")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = measured([int(size) for size in options.ranks.split(",")], options.repeat)
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "torch": torch.__version__, "rows": rows}))
        return
    print("ranks way init_ms first_ms later_ms sockets cpu_s")
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
