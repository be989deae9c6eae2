"""What the roll call costs, in operations, connections and bytes: the same in a world of any size.

One process is all ranks here: threads, with a store in memory and the host's real sockets.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, replace

import pytest
import torch.distributed as dist

from allranks._rendezvous import host_meeting
from allranks._rendezvous.batches import BATCHES, INDEXED
from allranks._rendezvous.gathering import call_the_roll
from allranks._rendezvous.host_meeting import AgentWord
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.plan import RendezvousPlan
from allranks._rendezvous.record import HostVerdict, RankRecord, pack
from allranks._rendezvous.roll_call import record_of
from allranks._system import host_sockets
from allranks._system.typed_json import written
from allranks._system.waiting import Deadline
from allranks.errors import DuplicateRankError, MissingRanksError, RendezvousError
from counting_store import CountingStore
from harness import PATIENCE, wait_until

A_HOST = 8

needs_host_sockets = pytest.mark.skipif(
    not host_sockets.allowed(), reason="needs abstract unix sockets"
)


def record(rank: int, size: int, host: int) -> RankRecord:
    versions = "Python 3, torch 2, allranks 0"
    return RankRecord(
        rank, size, "j", "env", f"h{host}", f"h{host}", 1000 + rank, "", None, None, versions
    )


def world(size: int, placement: str) -> list[RankRecord]:
    hosts = size // A_HOST
    place = {"block": lambda rank: rank // A_HOST, "cyclic": lambda rank: rank % hosts}[placement]
    return [record(rank, size, place(rank)) for rank in range(size)]


@dataclass
class Heard:
    """What one rank heard, and what it asked the store."""

    verdict: HostVerdict | None = None
    error: Exception | None = None
    store: CountingStore | None = None
    bytes: int = 0


def called_up(
    records: list[RankRecord], seconds: float = PATIENCE, last: str = ""
) -> tuple[dist.Store, list]:
    """What each rank of a roll call hears, with an agent for those of each host.

    Where a host is named, it comes when all others have come.
    """
    store = dist.HashStore()
    plan = RendezvousPlan(hosts=(uuid.uuid4().hex,), ports=(1,))
    by_host: dict[str, list[int]] = {}
    for position, one in enumerate(records):
        by_host.setdefault(one.host_key if one.rank else "rank 0", []).append(position)
    heard = [Heard() for _ in records]
    threads = {
        key: threading.Thread(target=a_host, args=(store, plan, records, ranks, heard, seconds))
        for key, ranks in by_host.items()
    }
    for key in sorted(threads, key=lambda key: key == last):
        if key == last:
            wait_until(lambda: store.add(BATCHES, 0) == len(threads) - 1)
        threads[key].start()
    for thread in threads.values():
        thread.join()
    return store, heard


def a_host(store, plan, records, ranks, heard, seconds) -> None:
    """Its first rank is the agent, where there are such; the others visit it."""
    deadline = Deadline.after(seconds)
    first, *others = (records[position] for position in ranks)
    agent = host_meeting.find(plan, first, len(ranks) + (first.host == "h0"))
    visitors = [host_meeting.find(plan, one, A_HOST) for one in others]
    for visitor, one in zip(visitors, others, strict=True):
        visitor.say(one)
    mine = heard[ranks[0]]
    mine.store = CountingStore(store)
    try:
        mine.verdict = call_the_roll(Meeting(mine.store, "a store"), first, deadline, agent)
        word = AgentWord(verdict=mine.verdict)
    except RendezvousError as error:
        mine.error, word = error, AgentWord(error=pack(error))
    if agent:
        agent.pass_on(word)
    mine.bytes = len(written(word))
    for visitor, one, position in zip(visitors, others, ranks[1:], strict=True):
        told = visitor.hear(one, deadline)
        heard[position].verdict, heard[position].error = told.verdict, told.error


@needs_host_sockets
@pytest.mark.parametrize("placement", ["block", "cyclic"])
def test_what_a_host_asks_and_hears_does_not_grow_with_the_world(placement: str) -> None:
    asked, sizes = {}, {}
    for size in (64, 1024):
        _, heard = called_up(world(size, placement))
        agents = [one for one in heard[1:] if one.store]
        assert len(agents) == size // A_HOST
        asked[size] = max(one.store.operations for one in agents)
        sizes[size] = max(one.bytes for one in agents)
        assert max(one.store.moved for one in agents) < 10_000
    assert max(asked.values()) <= 12, asked
    assert sizes[1024] - sizes[64] < 100, sizes


@needs_host_sockets
def test_every_rank_hears_where_it_stands() -> None:
    records = world(64, "cyclic")
    _, heard = called_up(records)
    for rank, one in enumerate(heard):
        here = tuple(range(rank % 8, 64, 8))
        layout = one.verdict.layout_for(rank)
        assert (layout.node_rank, layout.num_nodes, layout.here) == (rank % 8, 8, here)
        assert layout.local_rank == here.index(rank)
        assert [peer.rank for peer in layout.local_peers] == [r for r in here if r != rank]
        assert layout.rank_0 == (records[0] if rank else None)


@needs_host_sockets
def test_rank_0_asks_little_more_than_once_per_512_hosts() -> None:
    _, heard = called_up(world(1024, "block"))
    names = heard[0].store.calls
    waiting = ("check", "add", "get")  # It asks again and again whether all have come.
    assert sum(count for name, count in names.items() if name not in waiting) <= 12, names


def test_who_a_rank_is_takes_four_operations() -> None:
    store, _ = called_up(world(2 * INDEXED, "block"))
    for rank in (0, 7, INDEXED - 1, INDEXED, 2 * INDEXED - 1):
        counting = CountingStore(store)
        assert record_of(counting, rank).pid == 1000 + rank
        assert counting.operations == 4
        assert counting.moved < 8_000
    assert record_of(store, 2 * INDEXED) is None


def test_ranks_without_such_sockets_go_by_themselves(monkeypatch) -> None:
    monkeypatch.setenv("ALLRANKS_HOST_SOCKETS", "0")
    records = world(16, "block")
    store = dist.HashStore()
    verdicts: dict[int, HostVerdict] = {}

    def alone(one: RankRecord) -> None:
        meeting = Meeting(store, "a store")
        verdicts[one.rank] = call_the_roll(meeting, one, Deadline.after(PATIENCE))

    plan = RendezvousPlan(hosts=("h",), ports=(1,))
    assert {host_meeting.find(plan, one, 8) for one in records} == {None}
    threads = [threading.Thread(target=alone, args=(one,)) for one in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdicts[rank].layout_for(rank).here for rank in (3, 9)] == [
        tuple(range(8)),
        tuple(range(8, 16)),
    ]


@needs_host_sockets
def test_a_rank_that_two_processes_claim_is_named_to_all() -> None:
    records = world(16, "block")
    for twin in (replace(records[9], pid=5), replace(records[9], pid=5, host_key="h7")):
        _, heard = called_up([*records, twin], last="h0")
        for one in heard:
            told = str(getattr(one.error, "message", one.error))
            assert "rank 9 is claimed twice: by rank 9 (pid " in told
            assert "(pid 5 on h1)" in told
        assert isinstance(heard[0].error, DuplicateRankError)


@needs_host_sockets
def test_ranks_that_do_not_come_are_named_with_those_that_did() -> None:
    records = [one for one in world(32, "block") if one.rank not in (3, 30)]
    _, heard = called_up(records, 3)
    for one in heard:
        told = str(getattr(one.error, "message", one.error))
        assert told.startswith("2 of 32 ranks did not come within 3 s: 3, 30. Present: 0-2, 4-7 on")
    assert isinstance(heard[0].error, MissingRanksError)
    assert heard[0].error.missing == (3, 30)
