"""How the watch behaves as ranks grow: real parts of it, simulated ranks, a real store.

The store is a process of its own. Some processes simulate the hosts: what they do would be spread
over all hosts of a real job, so that the times are upper bounds: of 16,384 ranks it is some ten
seconds of CPU. What does not spread is the store's CPU, which is shown beside.

torch looks up the name of whoever connects: where name servers take long, `/etc/hosts` must know
`::ffff:127.0.0.1`.

    python benchmarks/scale_watch.py
    python benchmarks/scale_watch.py --ranks 1024 4096 --json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from allranks._watch import config, news
from counting_store import CountingStore
from simulated_watch import Place, SimulatedHost, ask_at_once, placed
from startup_tables import Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

LOCAL = 8
"""Ranks of a host."""

SHARE = 256
"""How many ranks one process simulates: with more, its threads get in each other's way."""

QUIET = 30.0
"""Seconds in which the operations of a quiet world are counted: longer than to a fallback look."""

SIGNS = 5.0
"""Seconds between the signs of life in a host, instead of one: here all hosts share some cores."""

ANSWERS = 200
"""How many answers in a second the one who asks relies on: all must come before the verdict."""

PATIENCE = 600.0


@dataclass(frozen=True)
class Measured:
    """What one world has shown.

    Attributes:
        ranks: how many.
        quiet: operations per rank and second, while nothing happens.
        heard: seconds from a posted failure until all have heard.
        verdict: seconds from the question to the verdict, on the rank that asks.
        told: seconds from the question until all have the verdict.
        length: characters of the verdict.
        text: the verdict.
        operations: of the inquiry, per rank.
        grown: MiB that the inquiry adds to the store.
        store: MiB of the store's process.
        server: seconds of the store's CPU for the inquiry.
    """

    ranks: int
    quiet: float
    heard: float
    verdict: float
    told: float
    length: int
    text: str
    operations: float
    grown: float
    store: float
    server: float


def serve(pipe: Connection) -> None:
    """The store, and what it uses."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    while pipe.recv():
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        pipe.send((kib / 1024, time.process_time()))


class Share:
    """The hosts that one process simulates, and what it is asked of them."""

    def __init__(self, port: int, nodes: range, world_size: int) -> None:
        import torch.distributed as dist

        news.SIGN, config.ANSWERS = SIGNS, ANSWERS
        ask_at_once()
        self.store = CountingStore(dist.TCPStore("127.0.0.1", port, wait_for_workers=False))
        places = placed(world_size, LOCAL)
        self._hosts = [
            SimulatedHost(self.store, places[node], Place(world_size, node, len(places)))
            for node in nodes
        ]
        self._ranks = [rank for host in self._hosts for rank in host.ranks]

    def settle(self) -> None:
        """Wait until all have connected, and wait for news."""
        _until(lambda: all(host.is_quiet for host in self._hosts))

    def quiet(self) -> int:
        """How many operations there are while nothing happens."""
        before = self.operations()
        time.sleep(QUIET)
        return self.operations() - before

    def operations(self) -> int:
        """How many there were so far."""
        return self.store.operations

    def fail(self) -> float:
        """The last rank fails, now."""
        self._hosts[-1].order(self._ranks[-1].fail)
        return time.monotonic()

    def heard(self) -> float:
        """When the last rank here heard of the failure."""
        last = self._ranks[0].config.world_size - 1
        others = [rank for rank in self._ranks if rank.config.me.rank != last]
        _until(lambda: all(rank.heard for rank in others))
        return max(rank.heard for rank in others)

    def absent(self) -> None:
        """The last rank does not come to a collective."""
        self._ranks[-1].progress.absent = True

    def ask(self) -> float:
        """Rank 0 asks, now."""
        began = time.monotonic()
        self._hosts[0].order(self._ranks[0].judge)
        return began

    def told(self) -> tuple[float, float, str]:
        """When the first rank here has the verdict, and the last one; the verdict."""
        _until(lambda: all(rank.told for rank in self._ranks))
        return self._ranks[0].told, max(rank.told for rank in self._ranks), self._ranks[0].verdict


def simulate(pipe: Connection, port: int, nodes: range, world_size: int) -> None:
    """Answer questions about some hosts, by the name of a method."""
    share = Share(port, nodes, world_size)
    while name := pipe.recv():
        pipe.send(getattr(share, name)())
    os._exit(0)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


class Processes:
    """A store and the hosts, each at the other end of a pipe."""

    def __init__(self, world_size: int) -> None:
        self._context = multiprocessing.get_context("fork")
        self._children: list[Any] = []
        self._store = self._start(serve)
        port = self._store.recv()
        nodes = len(placed(world_size, LOCAL))
        each = SHARE // LOCAL
        shares = [range(1)]  # Who asks has an interpreter to itself, as in a real job.
        shares += [range(node, min(node + each, nodes)) for node in range(1, nodes, each)]
        self._shares = [self._start(simulate, port, share, world_size) for share in shares]

    def _start(self, target: Callable[..., None], *args: Any) -> Connection:
        ours, theirs = self._context.Pipe()
        child = self._context.Process(target=target, args=(theirs, *args), daemon=True)
        child.start()
        self._children.append(child)
        return ours

    def each(self, question: str) -> list[Any]:
        """Ask all, and hear their answers."""
        for pipe in self._shares:
            pipe.send(question)
        return [pipe.recv() for pipe in self._shares]

    def one(self, question: str, index: int) -> Any:
        """Ask one of them."""
        self._shares[index].send(question)
        return self._shares[index].recv()

    def store(self) -> tuple[float, float]:
        """MiB and CPU seconds of the store."""
        self._store.send("how are you")
        mib, cpu = self._store.recv()
        return mib, cpu

    def end(self) -> None:
        """End all of them, the store last: else each host would tell how it was lost."""
        for child in reversed(self._children):
            child.kill()
            child.join()


def measured(world_size: int) -> Measured:
    """Measure one world."""
    processes = Processes(world_size)
    try:
        processes.each("settle")
        quiet = sum(processes.each("quiet")) / QUIET / world_size
        processes.each("settle")
        mib, cpu = processes.store()
        before = sum(processes.each("operations"))
        processes.one("absent", -1)
        began = processes.one("ask", 0)
        told = processes.each("told")
        inquiry = (sum(processes.each("operations")) - before) / world_size
        after, spent = processes.store()
        processes.each("settle")
        failed = processes.one("fail", -1)
        heard = max(processes.each("heard")) - failed
        text = told[0][2]
        return Measured(
            world_size,
            quiet,
            heard,
            told[0][0] - began,
            max(last for _, last, _ in told) - began,
            len(text),
            text,
            inquiry,
            after - mib,
            after,
            spent - cpu,
        )
    finally:
        processes.end()


def rows(worlds: list[Measured]) -> Iterator[tuple[str, ...]]:
    """The lines of the table."""
    for one in worlds:
        yield (
            f"{one.ranks:,}",
            f"{one.quiet:.4f}",
            f"{one.heard:.2f} s",
            f"{one.verdict:.2f} s",
            f"{one.told:.2f} s",
            f"{one.length}",
            f"{one.operations:.1f}",
            f"{one.grown:.1f} of {one.store:.0f} MiB",
            f"{one.server:.2f} s",
        )


HEAD = (
    "ranks",
    "quiet: operations a rank and second",
    "a failure is heard by all",
    "verdict",
    "heard by all",
    "characters",
    "operations a rank",
    "store",
    "its CPU",
)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--json", action="store_true", help="print JSON, and no table")
    asked = parser.parse_args()
    import torch.distributed  # noqa: F401 - once, before the processes are forked

    worlds = [measured(size) for size in asked.ranks]
    if asked.json:
        print(json.dumps([asdict(one) for one in worlds], indent=1))
    else:
        Console().print(Grid(f"{LOCAL} ranks a host", HEAD, tuple(rows(worlds))).rich())


if __name__ == "__main__":
    main()
