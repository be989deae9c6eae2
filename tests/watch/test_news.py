"""What the watch asks of the store, counted: nothing while all is quiet, and little otherwise."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch.distributed as dist

from allranks._system import host_sockets
from allranks._system.host_sockets import SWITCH
from allranks._watch import host_news, news, store_client
from allranks._watch.event_log import CLOSED, LogEntry
from allranks._watch.host_news import Followers, Message
from allranks._watch.local_peers import LocalPeers
from allranks._watch.store_client import StoreClient
from counting_store import CountingStore
from harness import PATIENCE, wait_until
from simulated_watch import Place, SimulatedHost, SimulatedRank, placed, record

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS, LOCAL = 12, 4
HOSTS = len(placed(RANKS, LOCAL))
LAST = RANKS - LOCAL
"""The last host's first rank."""


class World:
    """Some hosts, with a real store between them."""

    def __init__(self, ranks: int = RANKS) -> None:
        self._server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        self.store = CountingStore(self._server)
        places = placed(ranks, LOCAL)
        self.hosts = [
            SimulatedHost(self.store, here, Place(ranks, node, len(places)))
            for node, here in enumerate(places)
        ]
        self.ranks: list[SimulatedRank] = [rank for host in self.hosts for rank in host.ranks]
        self.wait_until_quiet()

    def wait_until_quiet(self) -> None:
        wait_until(lambda: all(host.is_quiet for host in self.hosts))
        sources = [one.news.source for one in self.ranks]
        parked = [one for one in sources if isinstance(one, news.Parked) and one.is_settled]
        wait_until(lambda: self.store.under_way["wait"] == len(parked))

    def calls(self) -> dict[str, int]:
        """What was called since the last time this was asked."""
        self.wait_until_quiet()
        calls = dict(self.store.calls)
        self.store.calls.clear()
        self.store.sent.clear()
        return calls

    def fail(self, rank: int) -> None:
        """A rank fails, and all others that look for news hear it."""
        self.hosts[-1].order(self.ranks[rank].fail)
        looking = [one for host in self.hosts for one in host.ranks]
        wait_until(lambda: all(one.heard or one.config.me.rank == rank for one in looking))

    def ask(self) -> str:
        """Rank 0 asks all, and all hear the verdict."""
        self.hosts[0].order(self.ranks[0].judge)
        wait_until(lambda: all(one.told for one in self.ranks))
        return self.ranks[-1].verdict

    def stop(self) -> None:
        for host in self.hosts:
            host.stop()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.stop()


def sources(host: SimulatedHost) -> list[type]:
    return [type(rank.news.source) for rank in host.ranks]


def test_a_quiet_world_asks_nothing(world: World) -> None:
    world.calls()
    for _ in range(20):
        for host in world.hosts:
            done = []
            host.order(lambda done=done: done.append(True))  # The thread has looked once more.
            wait_until(lambda done=done: bool(done))
    assert world.calls() == {}
    for host in world.hosts:
        assert sources(host) == [news.Parked] + [news.Followed] * (len(host.ranks) - 1)


def test_a_failure_costs_each_host_a_few_operations(world: World) -> None:
    world.calls()
    world.fail(LAST)
    heard = [one.log_client.failure for one in world.ranks]
    assert [one and one.rank for one in heard] == [LAST] * LAST + [None] + [LAST] * (LOCAL - 1)
    calls = world.calls()
    assert calls.pop("compare_set") == 1
    assert calls.pop("multi_set") == 1
    # Who posts it has read it; the others react before they look once more, and park.
    reads = {"check": 2 * HOSTS - 1 + HOSTS - 1, "get": HOSTS - 1}
    assert calls == {**reads, "add": HOSTS, "wait": HOSTS}
    assert world.store.add("watch/heard", 0) == RANKS - 1


def test_nobody_waits_in_a_store_that_closes(world: World) -> None:
    """Else torch would print a stack on each host when rank 0 has left."""
    last = world.ranks[LAST]
    closing = LogEntry("closing", last.config.me.rank)
    world.hosts[-1].order(lambda: last.log_client.post(closing, unless="closing"))
    wait_until(lambda: all(one.client.lost == CLOSED for one in world.ranks))
    wait_until(lambda: world.store.under_way["wait"] == 0)


def test_an_inquiry_costs_each_rank_two_operations(world: World) -> None:
    world.calls()
    absent = world.ranks[5]
    absent.progress.absent = True
    verdict = world.ask()
    assert "Ranks 0-4, 6-11: in all_reduce float32[4096, 1024], train.py:88" in verdict
    assert "Rank 5: in no collective, at data.py:31 in load_shard" in verdict
    calls = dict(world.store.calls)
    kinds = 2
    assert calls["append"] == RANKS
    assert calls["set"] == kinds
    assert calls["add"] == RANKS + kinds
    assert calls["compare_set"] == 2
    assert calls["get"] + calls["check"] + calls["multi_get"] < 4 * HOSTS + 200  # One rank polls.


def test_the_bytes_of_an_inquiry_are_of_digests_and_not_of_ranks() -> None:
    sent = []
    for ranks in (LOCAL, 4 * LOCAL):
        world = World(ranks)
        world.calls()
        world.ask()
        sent.append(world.store.sent["append"] / ranks)
        assert world.store.sent["set"] < 20_000
        world.stop()
    assert max(sent) < 80
    assert max(sent) - min(sent) < 8


def test_where_the_relay_leaves_the_next_one_waits(world: World) -> None:
    host = world.hosts[-1]
    relay = host.ranks[0]
    host.order(relay.news.close)
    host.ranks.remove(relay)
    wait_until(lambda: sources(host) == [news.Parked, news.Followed, news.Followed])
    world.wait_until_quiet()
    world.fail(RANKS - 1)
    assert relay.log_client.failure is None


def test_a_relay_that_gives_no_sign_of_life_is_followed_no_longer(world, monkeypatch) -> None:
    monkeypatch.setattr(news, "MUTE", 1)
    host = world.hosts[-1]
    relay = host.ranks.pop(0)  # Nobody looks for it any more; its wait is parked, its socket open.
    wait_until(lambda: sources(host) == [news.Parked, news.Followed, news.Followed])
    world.wait_until_quiet()
    world.fail(RANKS - 1)
    host.ranks.append(relay)


def test_news_whose_poster_died_before_it_woke_anybody_are_found(world, monkeypatch) -> None:
    monkeypatch.setattr(news, "FALLBACK", 1.0)
    for host in world.hosts:
        host.ranks[0].news.source._look = news.Deadline.after(1.0)
    poster = world.ranks[-1]
    poster.log_client._log._hosts = 0
    world.fail(RANKS - 1)
    world.wait_until_quiet()
    assert {host.ranks[0].news.source._slot for host in world.hosts} == {1}


def test_an_entry_too_long_for_a_socket_is_read_in_the_store(world: World) -> None:
    poster = world.ranks[-1]
    poster.config.me.__dict__["host"] = "h" * 200_000
    world.fail(RANKS - 1)
    assert {len(one.log_client.failure.who) > 200_000 for one in world.ranks[:-1]} == {True}


def test_without_sockets_each_rank_waits_by_itself(monkeypatch) -> None:
    monkeypatch.setenv(SWITCH, "0")
    world = World()
    assert {kind for host in world.hosts for kind in sources(host)} == {news.Parked}
    world.fail(LAST)
    assert world.store.add("watch/heard", 0) == RANKS - 1
    world.stop()


class SlowStore:
    """Its first answer comes late."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.asked: list[str] = []

    def look(self, _: object) -> str:
        self.asked.append("look")
        self.goes_on.wait()
        return "seen"

    def tell(self, _: object) -> str:
        self.asked.append("tell")
        return "told"


@pytest.mark.skipif(not host_sockets.allowed(), reason="needs abstract unix sockets")
def test_who_has_left_needs_no_news() -> None:
    """Else rank 0, which waits until all have heard of a failure, would wait in vain."""
    peers, listener = LocalPeers(), host_news.listening()
    follower = record(1, 2, 0, listener)
    followers = Followers(listener, [follower], peers)
    connection = host_news.connected(follower)
    followers.accept(Message(0, lost=False, body=b""))
    assert followers.tell(Message(1, lost=False, body=b"news")) == [1]
    connection.close()
    assert followers.tell(Message(2, lost=False, body=b"a failure")) == [1]
    followers.close()
    peers.close()


def test_a_late_answer_is_kept_and_what_must_be_told_waits_for_it(monkeypatch) -> None:
    monkeypatch.setattr(store_client, "PATIENCE", 0.01)
    client, store = StoreClient(None), SlowStore()
    client.share()
    look = store.look
    assert client.ask(look, "") == ""
    assert client.silent
    assert client.ask(look, "") == ""
    assert client.ask(store.tell, "") == ""
    store.goes_on.set()
    assert client.ask(store.tell, "", PATIENCE) == "told"
    assert store.asked == ["look", "tell"]
    assert not client.silent
    store.goes_on.clear()
    assert client.ask(look, "") == ""
    store.goes_on.set()
    wait_until(lambda: client.ask(look, "") == "seen")
    assert store.asked == ["look", "tell", "look"]
