"""Ranks whose watch is real, and whose program is not: many of them in one process.

A simulated host has one thread for the watches of all its ranks, and sockets and connections to the
store as real ones have: one for each rank, and one for the wait that is parked.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._rendezvous.record import RankRecord
from allranks._watch import host_news, news, store_client
from allranks._watch.config import WatchConfig
from allranks._watch.diagnosis import RankStatus, ReportedCollective
from allranks._watch.event_log import LogEntry
from allranks._watch.event_log_client import EventHandlers, EventLogClient
from allranks._watch.failures import Failure
from allranks._watch.local_peers import LocalPeers
from allranks._watch.news import News
from allranks._watch.progress import StuckCollective
from allranks._watch.stall_judge import StallJudge
from allranks._watch.status_inquiry import StatusInquiry
from allranks._watch.store_client import StoreClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALLS = tuple(
    ReportedCollective("WORLD", number, "all_reduce", "float32[4096, 1024]", "train.py:88")
    for number in range(151, 201)
)
"""What a rank remembers."""

STACK = ("train.py:88 in step", "train.py:61 in epoch", "train.py:12 in main")


class AtOnce:
    """A call that is over as soon as it is begun, in the thread that begins it.

    A rank asks its store in a thread of its own, lest a store that is gone should hold it up. Of
    thousands of ranks in a process, such threads would get in each other's way.
    """

    over = True

    def __init__(self, call: Callable[[], Any], then: Callable[[], None] | None = None) -> None:
        """Make the call; the arguments are those of ``BackgroundCall``."""
        self._result = call()
        if then:
            then()

    def result(self, _: float) -> Any:
        """What the call returned."""
        return self._result


def ask_at_once() -> None:
    """Have all watches of this process ask the store in the thread of their host."""
    vars(store_client)["BackgroundCall"] = AtOnce


@cache
def _everybody(world_size: int) -> tuple[int, ...]:
    return tuple(range(world_size))


class SimulatedProgress:
    """A program that waits in a collective; or does not, and is waited for.

    Attributes:
        absent: whether it is waited for.
    """

    def __init__(self, world_size: int) -> None:
        self.absent = False
        self._members = _everybody(world_size)
        self._since = time.monotonic()

    def stuck(self) -> StuckCollective | None:
        """Where it waits."""
        return None if self.absent else StuckCollective(("WORLD", 200), self._since)

    candidate = stuck

    def status(self, rank: int, who: str, *, disturb: bool = True) -> RankStatus:  # noqa: ARG002
        """Where it stands, after 200 calls; the absent rank has made one less."""
        seconds = time.monotonic() - self._since
        if self.absent:
            made = {"WORLD": 199}
            line = "data.py:31 in load_shard"
            return RankStatus(
                rank, who, seconds, line, recent=CALLS[:-1], made=made, stack=(line, *STACK)
            )
        return RankStatus(
            rank,
            who,
            seconds,
            STACK[0],
            CALLS[-1],
            group="WORLD",
            members=self._members,
            recent=CALLS,
            made={"WORLD": 200},
            stack=STACK,
        )


class SimulatedRank:
    """The parts of a watch, as ``WatchThread`` puts them together.

    Attributes:
        heard: when it heard of the failure, on the monotonic clock; 0.0 until then.
        told: when it heard the verdict; 0.0 until then.
        verdict: the verdict.
    """

    def __init__(self, config: WatchConfig, peers: LocalPeers) -> None:
        self.config = config
        self.heard = self.told = 0.0
        self.verdict = ""
        self.progress = SimulatedProgress(config.world_size)
        self.client = StoreClient(config.store, peers.wake)
        progress: Any = self.progress
        self.inquiry = StatusInquiry(config, self.client, progress, peers)
        self._judge = StallJudge(config, self.client, self.inquiry, progress, peers)
        self.news = News(config, self.client, peers, self.inquiry)
        handlers = EventHandlers(self._hear_failure, self.inquiry.answer, self._hear_verdict)
        self.log_client = EventLogClient(config, self.client, self.news, handlers)

    def look(self) -> None:
        """What the watch's thread does, again and again."""
        self.client.take_own()
        self.log_client.hear()

    def fail(self) -> None:
        """Tell all that this rank fails."""
        me = self.config.me
        failure = Failure(me.rank, str(me), time.time(), "LookupError", "no shard 7")
        self.log_client.post(LogEntry("failure", me.rank, failure=failure), unless="failure")

    def judge(self) -> None:
        """Ask all where they stand, and tell the verdict."""
        self._judge.judge(self.log_client)

    def _hear_failure(self, _: Failure) -> None:
        self.heard = time.monotonic()

    def _hear_verdict(self, entry: LogEntry) -> None:
        self.verdict, self.told = entry.text, time.monotonic()
        self.inquiry.conclude()


class Place(NamedTuple):
    """A host among others."""

    world_size: int
    node: int
    nodes: int


def placed(world_size: int, local: int) -> list[range]:
    """The ranks of each host. Rank 0 has one to itself: it asks, in its host's only thread."""
    starts = [0, 1, *range(local, world_size, local)]
    return [range(*pair) for pair in zip(starts, [*starts[1:], world_size], strict=True)]


class SimulatedHost:
    """Some ranks, and the thread of their watches.

    Attributes:
        ranks: the ranks.
    """

    def __init__(self, store: Any, ranks: Sequence[int], place: Place) -> None:
        world_size, node, nodes = place
        listeners = [host_news.listening() for _ in ranks]
        pairs = zip(ranks, listeners, strict=True)
        records = [record(rank, world_size, node, listener) for rank, listener in pairs]
        self._peers = LocalPeers()
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._goes_on = True
        self.ranks = [
            SimulatedRank(
                WatchConfig(
                    store=store,
                    me=me,
                    local_peers=tuple(one for one in records if one is not me),
                    world_size=world_size,
                    hosts_store=False,
                    stall_after=60.0,
                    timeout=1800.0,
                    node_rank=node,
                    num_nodes=nodes,
                    listener=listener,
                ),
                self._peers,
            )
            for me, listener in zip(records, listeners, strict=True)
        ]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_quiet(self) -> bool:
        """Whether all its ranks have a connection, and know where the news come from."""
        sources = [one.news.source for one in self.ranks]
        return all(one.client.has_own for one in self.ranks) and all(
            source is not None and source.is_settled for source in sources
        )

    def order(self, what: Callable[[], None]) -> None:
        """Have something done by the thread."""
        self._orders.put(what)
        self._peers.wake()

    def stop(self) -> None:
        """All ranks leave."""
        self._goes_on = False
        self._peers.wake()
        self._thread.join()
        self._peers.close()

    def _run(self) -> None:
        while self._goes_on:
            for rank in self.ranks:
                rank.look()
            while not self._orders.empty():
                self._orders.get()()
            self._peers.wait(news.SIGN)
        for rank in self.ranks:
            rank.news.close()


def record(rank: int, world_size: int, node: int, listener: Any) -> RankRecord:
    """A rank of a simulated host, as the roll call knows it."""
    host = f"node{node}"
    return RankRecord(
        rank=rank,
        world_size=world_size,
        job="simulated",
        launcher="env",
        host=host,
        host_key=host,
        pid=os.getpid(),
        pid_space=host,
        device="cpu",
        device_uuid=None,
        versions="",
        socket=host_news.name_of(listener),
    )
