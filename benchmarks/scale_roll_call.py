"""The roll call of thousands of simulated ranks, 8 a host: how long, how much, and for whom.

    python benchmarks/scale_roll_call.py [--ranks 1024 4096 16384] [--runs 5] [--json]

Rank 0 is a process of its own, with a real store. The other hosts are threads of a few processes;
each has an agent and its visitors, with the package's own classes and real sockets. What is left
out is torch, which every real rank imports before, and its process group, which comes after. The
store looks up the name of each peer: measure where /etc/hosts has one for ::ffff:127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allranks._rendezvous import host_meeting, tcp_store
from allranks._rendezvous.gathering import Company, gather, go_to_the_store
from allranks._rendezvous.plan import RendezvousPlan
from allranks._rendezvous.record import RankRecord
from allranks._system import descriptors, sockets
from allranks._system.waiting import Deadline
from counting_store import CountingStore

if TYPE_CHECKING:
    from multiprocessing import Queue
    from multiprocessing.synchronize import Barrier

A_HOST, A_PROCESS = 8, 128
"""How many ranks a host has, and how many hosts a process is: with more, its threads get in each
other's way for the interpreter's lock, and that is what is measured."""

LIMIT = 300.0
"""Seconds after which a run has failed; it bounds nothing else."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["torch.distributed", "allranks._rendezvous.gathering"])


def record(rank: int, size: int, placement: str) -> RankRecord:
    """A rank as it is on a cluster, with names as long as there."""
    hosts = size // A_HOST
    host = rank // A_HOST if placement == "block" else rank % hosts
    return RankRecord(
        rank,
        size,
        "slurm/1234567/0/0",
        "slurm",
        f"node{host:05}",
        f"node{host:05}|01234567-89ab-cdef-0123-456789abcdef|net:[4026531840]",
        1000 + rank,
        f"{host:08}-89ab-cdef-0123-456789abcdef|pid:[4026531836]",
        "cuda:0",
        None,
        "Python 3.11.2, torch 2.13.0, allranks 0.1.0",
        settings={"check": "None", "device": "cuda"},
    )


def hosts_of(size: int, placement: str) -> list[list[RankRecord]]:
    """The ranks of each host, without rank 0, which is a process of its own."""
    by_host: dict[str, list[RankRecord]] = {}
    for rank in range(1, size):
        one = record(rank, size, placement)
        by_host.setdefault(one.host, []).append(one)
    return list(by_host.values())


def a_host(plan: RendezvousPlan, ranks: list[RankRecord], heard: list[Any]) -> None:
    """One of its ranks is the agent, the others visit it; what all have heard, and when."""
    deadline = Deadline.after(LIMIT)
    first, *others = ranks
    agent: Any = host_meeting.find(plan, first, A_HOST)
    visitors: Any = [(host_meeting.find(plan, one, A_HOST), one) for one in others]
    for visitor, one in visitors:
        visitor.say(one)
    with ExitStack() as undo:
        meeting: Any
        meeting, _ = go_to_the_store(plan, first, Company(A_HOST), agent, deadline, undo)
        words = [visitor.hear(one, deadline) for visitor, one in visitors]
        at = time.monotonic()
        if not all(word.verdict.holds(one) for word, one in zip(words, others, strict=True)):
            raise ValueError(f"{ranks[0].host} has heard something else")
        heard.append((at, meeting.store.operations, meeting.store.moved))


def some_hosts(
    plan: RendezvousPlan, hosts: list[list[RankRecord]], start: Barrier, results: Queue[Any]
) -> None:
    """A process that is many hosts."""
    threading.stack_size(1 << 20)
    descriptors.make_room(30 * len(hosts))
    made, connections = tcp_store.connected, list[Any]()

    def counted(*given: Any) -> Any:
        connections.append(given)
        return CountingStore(made(*given))

    tcp_store.connected = counted  # type: ignore[assignment]
    heard: list[Any] = []
    threads = [threading.Thread(target=a_host, args=(plan, ranks, heard)) for ranks in hosts]
    start.wait()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    results.put(("hosts", cpu, heard, len(connections)))
    results.close()
    results.join_thread()
    os._exit(0)  # Thousands of threads are parked; nothing is left to do.


def rank_0(
    plan: RendezvousPlan, me: RankRecord, start: Barrier, over: Barrier, results: Queue[Any]
) -> None:
    """Rank 0's process, and what it used."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    start.wait()
    with ExitStack() as undo:
        gather(plan, me, Company(A_HOST, me.world_size), Deadline.after(LIMIT), undo)
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        results.put(("rank 0", cpu, peak() / 1e6))
        over.wait()


def peak() -> int:
    """The most memory that this process has held, without that of its parent (bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run(size: int, processes: int, placement: str) -> dict[str, float]:
    """One roll call of so many ranks."""
    plan = RendezvousPlan(hosts=(sockets.LOOPBACK,), ports=(sockets.free_port(),))
    hosts = hosts_of(size, placement)
    shares = [hosts[first::processes] for first in range(processes)]
    start = _processes.Barrier(2 + sum(map(bool, shares)))
    over, results = _processes.Barrier(2), _processes.Queue()
    me = record(0, size, placement)
    children = [_processes.Process(target=rank_0, args=(plan, me, start, over, results))]
    children += [
        _processes.Process(target=some_hosts, args=(plan, share, start, results))
        for share in shares
        if share
    ]
    for child in children:
        child.start()
    start.wait(LIMIT)
    began = time.monotonic()
    told = [results.get(timeout=LIMIT) for _ in children]
    over.wait()
    for child in children:
        child.join()
    return summary(told, began, size, len(hosts))


def summary(told: list[Any], began: float, size: int, hosts: int) -> dict[str, float]:
    """What all processes have told."""
    (first,) = [one for one in told if one[0] == "rank 0"]
    heard = [one for part in told if part[0] == "hosts" for one in part[2]]
    if len(heard) != hosts:
        raise ValueError(f"{len(heard)} of {hosts} hosts have heard")
    return {
        "ranks": size,
        "seconds": max(at for at, *_ in heard) - began,
        "rank 0 CPU s": first[1],
        "rank 0 peak MB": first[2],
        "CPU ms a host": sum(part[1] for part in told if part[0] == "hosts") / hosts * 1e3,
        "operations a host": max(operations for _, operations, _ in heard),
        "bytes a host": max(moved for *_, moved in heard),
        "connections a host": sum(part[3] for part in told if part[0] == "hosts") / hosts,
    }


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure the median of all runs."""
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, help="that are the hosts; one for 128, as it is")
    parser.add_argument("--placement", choices=["block", "cyclic"], default="block")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    worlds = []
    for size in asked.ranks:
        processes = asked.processes or max(4, size // A_HOST // A_PROCESS)
        runs = [run(size, processes, asked.placement) for _ in range(asked.runs)]
        worlds.append({**median(runs), "slowest": max(one["seconds"] for one in runs)})
        if not asked.json:
            print(
                ", ".join(f"{name} {value:.4g}" for name, value in worlds[-1].items()), flush=True
            )
    if asked.json:
        print(json.dumps(worlds, indent=1))


if __name__ == "__main__":
    main()
