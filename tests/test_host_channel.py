"""Headers between ranks of one host: over its sockets, or over gloo with the same results."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import secrets
import signal
import socket
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

import allranks
from allranks import _flight, _groups, _host_channel
from allranks._flight import Flown
from allranks._host_channel import ENTRY, SWITCH, HostChannel
from allranks._progress import _numbered
from allranks._told import FRAME, ROOM
from allranks.errors import CollectiveError, MismatchError, RankFailedError, StalledError

BODIES = (0, 1, ROOM - 1, ROOM, ROOM + 1, FRAME, 65536, 65536 + ROOM + 1, 3_000_000)


def session(**settings):
    return allranks.session(cpu=True, rendezvous_timeout=30, **settings)


def channel() -> object:
    """By which the world's headers go."""
    return _groups.members("test", None).kept["channel"]


def way_of_headers(rank_without: int | None) -> str:
    rank = int(os.environ["RANK"])
    if rank == rank_without:
        os.environ[SWITCH] = "0"
    with session() as world:
        assert allranks.all_reduce(rank) == sum(range(world.world_size))
        return type(channel()).__name__


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_of_one_host_use_its_sockets(size) -> None:
    assert set(allranks.launch(way_of_headers, (None,), ranks=size)) == {"HostChannel"}


@pytest.mark.parametrize("without", [0, 1, 2])
def test_all_go_over_gloo_where_one_rank_cannot(without) -> None:
    assert set(allranks.launch(way_of_headers, (without,), ranks=3)) == {"GlooChannel"}


def bodies() -> None:
    """The headers themselves, of any length and of other lengths on other ranks."""
    from allranks._headers import Header, agree, exchange

    with session() as world:
        who = _groups.members("test", None)
        for size in BODIES:
            mine = bytes([world.rank]) * (size + world.rank)
            wanted = [bytes([rank]) * (size + rank) for rank in range(world.world_size)]
            assert exchange(who, Header("test", mine)) == wanted
            alone = mine if world.rank == 1 else b""
            assert agree(who, Header("test", alone), b"".join) == wanted[1]
        assert isinstance(channel(), HostChannel)


@pytest.mark.parametrize("size", [2, 3])
def test_headers_of_any_length(size) -> None:
    allranks.launch(bodies, ranks=size, timeout=60)


def two_long_calls() -> str:
    tree = {f"{allranks.get_rank()}/{i}": 1.0 for i in range(20_000)}
    with session(), pytest.raises(MismatchError) as refused:
        allranks.all_reduce(tree)
    return str(refused.value)


def test_calls_that_are_told_at_length_are_compared() -> None:
    told = allranks.launch(two_long_calls, ranks=2, timeout=60)
    assert told[0] == told[1]
    assert len(told[0]) < 2000


def a_group_within() -> tuple[str, list[int]]:
    """The last two ranks, of which none is the world's first."""
    with session() as world:
        group = allranks.split(min(world.rank, 1))
        gathered = allranks.all_gather_objects(world.rank, group=group)
        used = _groups.members("test", group).kept.get("channel")
        return type(used).__name__, gathered


def test_a_group_has_sockets_of_its_own() -> None:
    told = allranks.launch(a_group_within, ranks=3)
    assert told[1:] == [("HostChannel", [1, 2])] * 2


def descriptors() -> Counter[str]:
    gc.collect()
    links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return Counter(link.rpartition(":")[0] for link in links if "socket:" in link)


def world_after_world() -> list[int]:
    """How many sockets are open after each of some worlds."""
    seen = []
    for _ in range(5):
        with session():
            allranks.all_reduce(1)
        seen.append(sum(descriptors().values()))
    return seen[1:]


def test_the_sockets_go_with_their_world() -> None:
    for seen in allranks.launch(world_after_world, ranks=2):
        assert seen == seen[:1] * 4


def rank_1_ends(told: Path) -> None:
    with session() as world:
        allranks.all_reduce(1)
        time.sleep(2.5)  # The watches meet.
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(CollectiveError) as lost:
            allranks.all_reduce(1)
        told.write_text(f"{type(lost.value).__name__}: {lost.value}")


@pytest.mark.parametrize(
    ("watch", "expected"),
    [
        ("1", r"PeerFailedError: rank 1 \(pid \d+ on .*\) was killed.*SIGKILL"),
        ("0", "CollectiveError: all_reduce.sum. of number: rank 1 has given up, or left: Connec"),
    ],
)
def test_a_peer_that_is_gone_is_named(watch, expected, monkeypatch, tmp_path) -> None:
    """By the watch, and without one by its socket."""
    monkeypatch.setenv("ALLRANKS_WATCH", watch)
    told = tmp_path / "told"
    with pytest.raises(RankFailedError):
        allranks.launch(rank_1_ends, (told,), ranks=2)
    assert re.match(expected, told.read_text()), told.read_text()


def rank_1_is_late() -> str:
    with session(timeout=timedelta(seconds=1)) as world:
        allranks.all_reduce(1)
        if world.rank == 1:
            time.sleep(4)
            return ""
        with pytest.raises(StalledError) as stalled:
            allranks.all_reduce(1)
        with pytest.raises(CollectiveError, match="this group is no longer usable"):
            allranks.all_reduce(1)
        return str(stalled.value)


def test_a_peer_that_does_not_come_is_told(monkeypatch) -> None:
    monkeypatch.setenv("ALLRANKS_WATCH", "0")
    told = allranks.launch(rank_1_is_late, ranks=2)[0]
    assert told.startswith("all_reduce(sum) of number did not complete within 1 s; rank 1 did not")


@pytest.fixture
def door():
    with _host_channel._door(3) as listening:
        yield listening


@pytest.fixture
def come(door):
    """Lets somebody come to the door and say something."""
    with contextlib.ExitStack() as stack:

        def comes(said: bytes) -> socket.socket:
            line = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            line.connect(door.getsockname())
            line.send(said)
            return line

        yield comes


def test_strangers_are_not_let_in(door, come) -> None:
    secret = secrets.token_bytes(16)
    said = [ENTRY.pack(bytes(16), 1), ENTRY.pack(secret, 2), ENTRY.pack(secret, 1)]
    visitors = [come(each) for each in said]
    admitted = _host_channel._admitted(door, secret, 2)
    assert admitted
    for line, visitor in zip(admitted, visitors[:0:-1], strict=True):
        with line:
            line.send(b"welcome")
        assert visitor.recv(10) == b"welcome"
    assert visitors[0].recv(10) == b""


@pytest.mark.parametrize("said", [b"hello", ENTRY.pack(b"x" * 16, 1), ENTRY.pack(bytes(16), 1)])
def test_those_who_come_are_sent_away_where_one_is_missing(door, come, said, monkeypatch) -> None:
    monkeypatch.setattr(_host_channel, "PATIENCE", 0.1)
    door.settimeout(0.1)
    visitor = come(said)
    assert _host_channel._admitted(door, bytes(16), 2) is None
    assert visitor.recv(10) == b""


def flown(group_id: str, group: str, numbers: range, begin: float) -> list[Flown]:
    return [
        Flown(group_id, group, number, f"{group_id}{number}", "", "", begin + number, over=True)
        for number in numbers
    ]


def test_calls_are_counted_whoever_sees_them() -> None:
    """Both remember their last calls only: the numbers are those of all that were made."""
    seen = [*flown("fr0", "WORLD", range(5, 8), 0.0), *flown("host", "WORLD", range(3, 6), 2.5)]
    calls = _numbered(sorted(seen, key=lambda one: one.at) + flown("fr1", "half", range(1, 3), 99))
    assert [(call.op, call.number) for call in calls] == [
        ("fr05", 7),
        ("host3", 8),
        ("fr06", 9),
        ("host4", 10),
        ("fr07", 11),
        ("host5", 12),
        ("fr11", 1),
        ("fr12", 2),
    ]


def exchanges() -> list[tuple[str, str, bool]]:
    with session() as world:
        for _ in range(2):
            allranks.all_reduce(world.rank)
        made = [one for one in _flight.flown() if one.group_id == "host WORLD"]
        return [(one.op, one.line.partition(":")[0], one.over) for one in made]


def test_exchanges_are_remembered() -> None:
    """With the call, its line, and whether it has ended."""
    noted = ("all_reduce(sum) of number", "test_host_channel.py", True)
    assert allranks.launch(exchanges, ranks=2)[0] == [noted, noted]
