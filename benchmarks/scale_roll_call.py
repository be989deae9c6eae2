"""The roll call of thousands of simulated ranks, 8 a host: how long, how much, and for whom.

    python benchmarks/scale_roll_call.py [--ranks 1024 4096 16384] [--runs 5] [--json]

Rank 0 is a process of its own, with a real store. A few processes are the other hosts, one after
the other: each has an agent and its visitors, with the package's own classes, its own connection
and real sockets. The clock starts when the ranks of each host are together, which every host does
by itself: how long one takes is shown beside. What is left out is torch, which every real rank
imports before, and its process group, which comes after. The store looks up the name of each peer:
measure where /etc/hosts has one for ::ffff:127.0.0.1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._rendezvous import host_meeting, tcp_store
from allranks._rendezvous.gathering import Company, gather
from allranks._rendezvous.host_meeting import AgentWord
from allranks._rendezvous.meet import meet
from allranks._rendezvous.plan import RendezvousPlan
from allranks._rendezvous.record import RankRecord
from allranks._rendezvous.roll_call import RollCall
from allranks._system import descriptors, sockets
from allranks._system.waiting import Deadline
from counting_store import CountingStore

if TYPE_CHECKING:
    from multiprocessing import Queue
    from multiprocessing.synchronize import Barrier

A_HOST = 8
"""How many ranks a host has."""

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


class Host:
    """A host whose ranks have come together: one is the agent, the others have told it of them.

    Attributes:
        meeting: where the agent has met rank 0; its store counts.
    """

    def __init__(self, plan: RendezvousPlan, ranks: list[RankRecord]) -> None:
        self._plan = plan
        self._ranks = ranks
        self._deadline = Deadline.after(LIMIT)
        self._agent, *self._visitors = (host_meeting.find(plan, one, A_HOST) for one in ranks)
        for visitor, one in zip(self._visitors, ranks[1:], strict=True):
            visitor.say(one)  # type: ignore[union-attr]

    def present(self) -> None:
        """The agent goes to the store, for all."""
        me = self._ranks[0]
        self.meeting: Any = meet(self._plan, me, self._deadline)
        self._roll_call = RollCall(self.meeting, me, self._deadline, self._agent)  # type: ignore[arg-type]
        self._roll_call.present()

    def hear(self) -> float:
        """All hear the verdict; when they have."""
        agent: Any = self._agent
        agent.pass_on(AgentWord(verdict=self._roll_call.await_verdict()))
        for visitor, one in zip(self._visitors, self._ranks[1:], strict=True):
            word: Any = visitor.hear(one, self._deadline)  # type: ignore[union-attr]
            if not word.verdict.holds(one):
                raise ValueError(f"{one} has heard something else")
        return time.monotonic()


class Share(NamedTuple):
    """What a process that was many hosts has found.

    Attributes:
        cpu: seconds of it.
        together: milliseconds in which the ranks of a host come together.
        heard: when all ranks of each host had heard.
        operations: how many each host asked of the store.
        moved: bytes that travelled for each host.
        connections: how many were made to the store, those that only see that it is there too.
    """

    cpu: float
    together: float
    heard: list[float]
    operations: list[int]
    moved: list[int]
    connections: int


def some_hosts(
    plan: RendezvousPlan, shares: list[list[RankRecord]], start: Barrier, results: Queue[Any]
) -> None:
    """A process that is many hosts: all go to the store, then all hear the verdict."""
    descriptors.make_room(30 * len(shares))
    connected, probed, connections = tcp_store.connected, sockets.connect, list[Any]()

    def counted(*given: Any) -> Any:
        connections.append(given)
        return CountingStore(connected(*given))

    def probing(*given: Any) -> Any:
        connections.append(given)
        return probed(*given)

    tcp_store.connected, sockets.connect = counted, probing  # type: ignore[assignment]
    began = time.monotonic()
    hosts = [Host(plan, ranks) for ranks in shares]
    together = 1e3 * (time.monotonic() - began) / len(hosts)
    start.wait()
    before = _cpu()
    for host in hosts:
        host.present()
    heard = [host.hear() for host in hosts]
    stores = [host.meeting.store for host in hosts]
    operations, moved = [one.operations for one in stores], [one.moved for one in stores]
    results.put(Share(_cpu() - before, together, heard, operations, moved, len(connections)))
    results.close()
    results.join_thread()
    os._exit(0)  # Thousands of connections are open; nothing is left to do.


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class First(NamedTuple):
    """What rank 0's process used: seconds of CPU, and megabytes."""

    cpu: float
    peak: float


def rank_0(
    plan: RendezvousPlan, me: RankRecord, start: Barrier, over: Barrier, results: Queue[Any]
) -> None:
    """Rank 0's process, and what it used."""
    before = _cpu()
    start.wait()
    with ExitStack() as undo:
        gather(plan, me, Company(A_HOST, me.world_size), Deadline.after(LIMIT), undo)
        results.put(First(_cpu() - before, peak() / 1e6))
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


def summary(told: list[First | Share], began: float, size: int, hosts: int) -> dict[str, float]:
    """What all processes have told."""
    (first,) = [one for one in told if isinstance(one, First)]
    shares = [one for one in told if isinstance(one, Share)]
    heard = [at for one in shares for at in one.heard]
    if len(heard) != hosts:
        raise ValueError(f"{len(heard)} of {hosts} hosts have heard")
    return {
        "ranks": size,
        "ms until a host is together": statistics.median(one.together for one in shares),
        "seconds": max(heard) - began,
        "rank 0 CPU s": first.cpu,
        "rank 0 peak MB": first.peak,
        "CPU ms a host": sum(one.cpu for one in shares) / hosts * 1e3,
        "operations a host": max(most for one in shares for most in one.operations),
        "bytes a host": max(most for one in shares for most in one.moved),
        "connections a host": sum(one.connections for one in shares) / hosts,
    }


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure the median of all runs."""
    return {name: statistics.median(one[name] for one in runs) for name in runs[0]}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=4, help="that are the hosts")
    parser.add_argument("--placement", choices=["block", "cyclic"], default="block")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    worlds = []
    for size in asked.ranks:
        runs = [run(size, asked.processes, asked.placement) for _ in range(asked.runs)]
        worlds.append({**median(runs), "slowest": max(one["seconds"] for one in runs)})
        if not asked.json:
            print(
                ", ".join(f"{name} {value:.4g}" for name, value in worlds[-1].items()), flush=True
            )
    if asked.json:
        print(json.dumps(worlds, indent=1))


if __name__ == "__main__":
    main()
