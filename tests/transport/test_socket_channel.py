"""Headers between ranks of one host: over its sockets, or over gloo with the same results."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._system.host_sockets import SWITCH
from allranks._system.waiting import Deadline
from allranks._transport import links, process_groups
from allranks._transport.frame import FIRST_BODY, FIRST_MESSAGE
from allranks._transport.links import ENTRY, Link
from allranks._transport.socket_channel import SocketChannel
from allranks._watch import flight_recorder
from allranks._watch.flight_recorder import RecordedCollective
from allranks._watch.progress import CollectiveProgress, _numbered
from allranks.errors import CollectiveError, DetectionError, MismatchError, RankFailedError
from harness import PATIENCE
from torch_versions import records_gloo

BODIES = (
    0,
    1,
    FIRST_BODY - 1,
    FIRST_BODY,
    FIRST_BODY + 1,
    FIRST_MESSAGE,
    65536,
    65536 + FIRST_BODY + 1,
    3_000_000,
)


def session(**settings):
    return allranks.session(cpu=True, rendezvous_timeout=30, **settings)


def channel() -> object:
    """By which the world's headers go."""
    return process_groups.members_of("test", None).cache["channel"]


def way_of_headers(rank_without: int | None) -> str:
    rank = int(os.environ["RANK"])
    if rank == rank_without:
        os.environ[SWITCH] = "0"
    with session() as world:
        assert allranks.all_reduce(rank) == sum(range(world.world_size))
        return type(channel()).__name__


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_of_one_host_use_its_sockets(size) -> None:
    assert set(allranks.launch(way_of_headers, (None,), ranks=size)) == {"SocketChannel"}


@pytest.mark.parametrize("without", [0, 1, 2])
def test_all_go_over_gloo_where_one_rank_cannot(without) -> None:
    assert set(allranks.launch(way_of_headers, (without,), ranks=3)) == {"GlooChannel"}


def bodies() -> None:
    """The headers themselves, of any length and of other lengths on other ranks."""
    from allranks._transport.headers import Header, exchange, exchange_and_combine

    with session() as world:
        who = process_groups.members_of("test", None)
        for size in BODIES:
            mine = bytes([world.rank]) * (size + world.rank)
            wanted = [bytes([rank]) * (size + rank) for rank in range(world.world_size)]
            assert exchange(who, Header("test", mine)) == wanted
            alone = mine if world.rank == 1 else b""
            assert exchange_and_combine(who, Header("test", alone), b"".join) == wanted[1]
            folded = exchange_and_combine(
                who, Header("test", alone), b"".join, fold=lambda told: [b"".join(told)]
            )
            assert folded == wanted[1]
        assert isinstance(channel(), SocketChannel)


@pytest.mark.parametrize("size", [2, 3, 4, 20])
def test_headers_of_any_length(size) -> None:
    allranks.launch(bodies, ranks=size, timeout=PATIENCE)


def two_long_calls() -> str:
    tree = {f"{allranks.get_rank()}/{i}": 1.0 for i in range(20_000)}
    with session(), pytest.raises(MismatchError) as refused:
        allranks.all_reduce(tree)
    return str(refused.value)


def test_calls_that_are_told_at_length_are_compared() -> None:
    told = allranks.launch(two_long_calls, ranks=2, timeout=PATIENCE)
    assert told[0] == told[1]
    assert len(told[0]) < 2000


def a_group_within() -> tuple[str, list[int]]:
    """The last two ranks, of which none is the world's first."""
    with session() as world:
        group = allranks.split(min(world.rank, 1))
        gathered = allranks.all_gather_objects(world.rank, group=group)
        used = process_groups.members_of("test", group).cache.get("channel")
        return type(used).__name__, gathered


def test_a_group_has_sockets_of_its_own() -> None:
    told = allranks.launch(a_group_within, ranks=3)
    assert told[1:] == [("SocketChannel", [1, 2])] * 2


def _links_of(channel: SocketChannel) -> list[Link]:
    parent, children, _ = channel._links
    return [*([parent] if parent else []), *children]


def world_after_world() -> list[list[int]]:
    """The descriptors of the sockets of worlds that have ended, the last by torch's function."""
    left = []
    for number in range(3):
        with session():
            allranks.all_reduce(1)
            kept = channel()
            if number == 2:
                dist.destroy_process_group()
        left.append([one.socket.fileno() for one in _links_of(kept)])
    return left


def test_the_sockets_go_with_their_world() -> None:
    assert allranks.launch(world_after_world, ranks=2) == [[[-1]] * 3] * 2


def no_descriptor_is_left(rank: int) -> str:
    """To the first member before it opens its door, to another before it goes there."""
    with session() as world:
        if world.rank == rank:
            free = os.open("/dev/null", os.O_RDONLY)
            os.close(free)
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
        assert allranks.all_reduce(1) == world.world_size
        if world.rank == rank:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return type(channel()).__name__


@pytest.mark.parametrize("rank", [0, 1])
def test_all_go_over_gloo_where_a_rank_has_no_descriptor_left(rank) -> None:
    found = allranks.launch(no_descriptor_is_left, (rank,), ranks=3, timeout=PATIENCE)
    assert found == ["GlooChannel"] * 3


def child_calls(generations: int, is_first: bool) -> tuple[int, str]:
    """A child of rank 1, or a child of it, makes a call, as the rank would."""
    with session() as world:
        if not is_first:
            allranks.all_reduce(1)
        reader, writer = os.pipe()
        if world.rank == 1 and not (child := os.fork()):
            for _ in range(generations - 1):
                if grandchild := os.fork():
                    os.waitpid(grandchild, 0)
                    os._exit(0)
            for call in (lambda: allranks.all_reduce(1000), lambda: allranks.setup(cpu=True)):
                try:
                    call()
                except (CollectiveError, DetectionError) as refused:
                    os.write(writer, f"{refused}\n".encode())
            allranks.cleanup()  # Of nothing: the group is its parent's.
            os._exit(0)
        if world.rank == 1:
            os.waitpid(child, 0)
        os.close(writer)
        return allranks.all_reduce(1), os.read(reader, 1000).decode()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("generations", [1, 2])
def test_a_child_has_no_part_in_its_parents_calls(generations, is_first) -> None:
    """Whether or not its parent has made a call before."""
    ranks = allranks.launch(child_calls, (generations, is_first), ranks=2, timeout=PATIENCE)
    assert ranks[0] == (2, "")
    count, told = ranks[1]
    assert count == 2
    refused = r"{}: this process \(pid \d+ on .*\) was forked from rank 1, .*\n"
    assert re.fullmatch(refused.format("all_reduce") + refused.format("setup"), told)


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


def late(seconds: tuple[float, ...]) -> str:
    """Each rank comes so many seconds after the others have begun."""
    with session(timeout=timedelta(seconds=2)) as world:
        allranks.all_reduce(1)
        time.sleep(seconds[world.rank])
        try:
            allranks.all_reduce(1)
        except CollectiveError as error:
            with pytest.raises(CollectiveError, match="this group is no longer usable"):
                allranks.all_reduce(1)
            time.sleep(3)
            return f"{type(error).__name__}: {error}"
        return "came"


STALLED = "StalledError: all_reduce(sum) of number did not complete within 2 s; "
GONE = "CollectiveError: all_reduce(sum) of number: rank 0 has given up, or left: "


def test_a_peer_that_does_not_come_is_told(monkeypatch) -> None:
    monkeypatch.setenv("ALLRANKS_WATCH", "0")
    told = allranks.launch(late, ((0, 4),), ranks=2, timeout=PATIENCE)
    assert told[0] == f"{STALLED}rank 1 did not make the same call, or stopped in it."
    assert told[1].startswith(GONE)


def test_the_timeout_is_that_of_the_call(monkeypatch) -> None:
    """Not of each rank that comes late; and who waits for an answer does not know for whom."""
    monkeypatch.setenv("ALLRANKS_WATCH", "0")
    told = allranks.launch(late, ((0, 0, 1.2, 2.6),), ranks=4, timeout=PATIENCE)
    assert told[0] == f"{STALLED}rank 3 did not make the same call, or stopped in it."
    assert told[1].startswith((GONE, f"{STALLED}at least one rank did not"))
    assert told[2].startswith(GONE)
    assert told[3].startswith(GONE)


def test_those_who_lose_the_first_member_are_told_what_it_waited_for() -> None:
    told = allranks.launch(late, ((0, 1, 4),), ranks=3, timeout=PATIENCE)
    for text in told[:2]:
        assert text.startswith("StalledError: ")
        assert "Rank 2: in no collective" in text


@pytest.fixture
def door():
    with contextlib.ExitStack() as doors:
        yield links._near_door(doors)


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
    admitted = links.admit(door, secret, {1, 2}, Deadline.after(PATIENCE))
    for rank, visitor in zip((1, 2), visitors[:0:-1], strict=True):
        with admitted[rank] as line:
            line.send(b"welcome")
        assert visitor.recv(10) == b"welcome"
    assert visitors[0].recv(10) == b""


@pytest.mark.parametrize("said", [b"hello", ENTRY.pack(b"x" * 16, 1), ENTRY.pack(bytes(16), 1)])
def test_those_who_come_are_sent_away_where_one_is_missing(door, come, said) -> None:
    visitor = come(said)
    assert links._admit_all([(door, {1, 2})], bytes(16), Deadline.after(0.1)) is None
    assert visitor.recv(10) == b""


def test_strangers_do_not_keep_the_door_open(door, come) -> None:
    closed = threading.Event()

    def visit() -> None:
        with contextlib.suppress(OSError):
            while not closed.wait(0.05):
                come(b"hello")

    visits = threading.Thread(target=visit)
    visits.start()
    try:
        assert links._admit_all([(door, {1, 2})], bytes(16), Deadline.after(0.3)) is None
    finally:
        closed.set()
        visits.join()


def recorded(group_id: str, group: str, numbers: range, begin: float) -> list[RecordedCollective]:
    return [
        RecordedCollective(
            group_id, group, number, f"{group_id}{number}", "", "", begin + number, over=True
        )
        for number in numbers
    ]


def test_calls_are_counted_whoever_sees_them() -> None:
    """Both remember their last calls only: the numbers are those of all that were made."""
    seen = [
        *recorded("fr0", "WORLD", range(5, 8), 0.0),
        *recorded("host", "WORLD", range(3, 6), 2.5),
    ]
    seen = sorted(seen, key=lambda one: one.at) + recorded("fr1", "half", range(1, 3), 99)
    calls = _numbered(seen, Counter({"WORLD": 12, "half": 2}), since=5.5)
    assert [(call.op, call.number) for call in calls] == [
        ("fr05", 0),
        ("host3", 8),
        ("fr06", 9),
        ("host4", 10),
        ("fr07", 11),
        ("host5", 12),
        ("fr11", 1),
        ("fr12", 2),
    ]


def many_calls_within_a_group() -> tuple[int, list[int]]:
    """Two ranks make more calls than are remembered; the third does not take part."""
    with session() as world:
        for _ in range(3):
            allranks.all_reduce(1)
        group = allranks.split(min(world.rank, 1))
        for _ in range(flight_recorder.KEPT if world.rank else 0):
            allranks.all_reduce(1, group=group)
        dist.all_reduce(torch.ones(1))
        progress = CollectiveProgress(blind=False)
        progress._began = 0.0
        status = progress.status(world.rank, "")
        return status.made["WORLD"], [c.number for c in status.recent if c.group == "WORLD"]


@records_gloo
def test_what_is_forgotten_is_counted_all_the_same() -> None:
    told = allranks.launch(many_calls_within_a_group, ranks=3, timeout=PATIENCE)
    made, numbers = told[0]
    assert [each[0] for each in told] == [made] * 3
    assert numbers == list(range(made - len(numbers) + 1, made + 1))
    assert [each[1] for each in told[1:]] == [[made]] * 2


def exchanges() -> list[tuple[str, str, bool]]:
    with session() as world:
        for _ in range(2):
            allranks.all_reduce(world.rank)
        made = [
            one for one in flight_recorder.remembered().collectives if one.group_id == "host WORLD"
        ]
        return [(one.op, one.line.partition(":")[0], one.over) for one in made]


def test_exchanges_are_remembered() -> None:
    """With the call, its line, and whether it has ended."""
    noted = ("all_reduce(sum) of number", "test_socket_channel.py", True)
    assert allranks.launch(exchanges, ranks=2)[0] == [noted, noted]
