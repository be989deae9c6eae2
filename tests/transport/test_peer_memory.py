"""Large data are read from a peer's memory where that works, and are right where it does not."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pickle
import signal
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._system import peer_memory
from allranks._transport import bulk, process_groups
from allranks.errors import CollectiveError, StalledError
from expectations import everyone_works_on, rank_and_size, refusal
from harness import PATIENCE, Ranks, private_environs

LARGE = bulk.LARGE
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")

pytestmark = pytest.mark.skipif(
    peer_memory.present("here")[1] is None or (YAMA.exists() and YAMA.read_text().strip() != "0"),
    reason="a system that lets no process read another one's memory",
)


class Fixed:
    """Pickles as memory that nobody may write to."""

    def __reduce_ex__(self, protocol):
        return bytes, (pickle.PickleBuffer(b"fixed" * LARGE),)


@pytest.fixture
def reads(monkeypatch) -> list[int]:
    """The bytes that each read from a peer's memory copied; small ones are trials."""
    found, read = [], peer_memory.read

    def noted(pid, address, into, length):
        read(pid, address, into, length)
        if length > 16:
            found.append(length)

    monkeypatch.setattr(peer_memory, "read", noted)
    return found


def numbers_of(rank: int, count: int = LARGE // 8 + 1) -> np.ndarray:
    return np.arange(rank, rank + count, dtype=np.int64)


def large_of(rank: int) -> dict:
    return {
        "rank": rank,
        "many": [numbers_of(rank), np.zeros((0, 3)), numbers_of(rank + 1)],
        "tensor": torch.full((rank + 1, 3), rank),
        "fixed": Fixed(),
    }


def check_large(made: dict, rank: int) -> None:
    first, nothing, second = made["many"]
    assert made["rank"] == rank
    assert (first == numbers_of(rank)).all()
    assert nothing.shape == (0, 3)
    assert (second == numbers_of(rank + 1)).all()
    assert made["tensor"].tolist() == [[rank] * 3] * (rank + 1)
    assert made["fixed"] == b"fixed" * LARGE


def large_data_arrive(group=None) -> None:
    """Each call that moves large data, among the members of a group."""
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    me = allranks.get_rank()
    others = [rank for rank in ranks if rank != me]
    for made in (
        allranks.all_gather_objects(large_of(me), group),
        allranks.gather_objects(large_of(me), group),
    ):
        for rank in others if made else ():
            check_large(made[ranks.index(rank)], rank)
    for src in ranks:
        made = allranks.broadcast_object(large_of(me), src, group)
        given = [large_of(rank) for rank in ranks]
        mine = allranks.scatter_objects(given if me == src else None, src, group)
        if me != src:
            check_large(made, src)
            check_large(mine, me)
    tensors_arrive(ranks, group)


def tensors_arrive(ranks, group) -> None:
    me = allranks.get_rank()
    for rows in (lambda _: LARGE, lambda rank: LARGE * ranks.index(rank)):
        mine = torch.full((rows(me), 3), me, dtype=torch.int16)
        made = allranks.all_gather(mine, group)
        assert [tuple(one.shape) for one in made] == [(rows(rank), 3) for rank in ranks]
        assert all((one == rank).all() for one, rank in zip(made, ranks, strict=True))
        assert allranks.all_gather(mine, group, cat=True).sum() == sum(one.sum() for one in made)


@pytest.mark.ranks(2, 4)
def test_large_data_are_read_from_the_peers(reads):
    """In whole, in sub-groups too; small data are not worth it."""
    rank, size = rank_and_size()
    assert [len(one) for one in allranks.all_gather_objects("a" * 9000)] == [9000] * size
    assert "reach" not in process_groups.members_of("test", None).cache
    large_data_arrive()
    assert reads
    reads.clear()
    reordered = [size - 1, 0]
    group = dist.new_group(reordered)
    if rank in reordered:
        large_data_arrive(group)
        assert reads
    everyone_works_on()


@pytest.mark.ranks(2)
def test_two_threads_share_a_large_piece(reads, monkeypatch):
    """Half of it each."""
    rank, _ = rank_and_size()
    monkeypatch.setattr(bulk, "IN_TWO", LARGE)
    mine = np.random.default_rng(rank).integers(0, 255, LARGE + 3, dtype=np.uint8)
    made = allranks.all_gather_objects(mine)[1 - rank]
    assert (
        made == np.random.default_rng(1 - rank).integers(0, 255, LARGE + 3, dtype=np.uint8)
    ).all()
    assert sorted(reads)[-2:] == [LARGE // 2 + 1, LARGE // 2 + 2]


@pytest.mark.ranks(3)
def test_one_rank_that_does_not_take_part(reads, monkeypatch):
    """All know of it, and the others go on reading."""
    rank, _ = rank_and_size()
    if rank == 1:
        monkeypatch.setenv("ALLRANKS_PEER_MEMORY", "0")
    large_data_arrive()
    found = bulk.reach(process_groups.members_of("test", None))
    assert [list(row) for row in found.readable] == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert bool(reads) == (rank != 1)
    everyone_works_on()


@pytest.mark.ranks(3)
def test_memory_that_cannot_be_read_is_sent(monkeypatch):
    """As a device's memory, which looks like any other."""
    rank, _ = rank_and_size()

    def refused(*_):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    bulk.reach(process_groups.members_of("test", None))
    if rank == 2:
        monkeypatch.setattr(peer_memory, "read", refused)
    large_data_arrive()
    assert not bulk.reach(process_groups.members_of("test", None)).anywhere
    everyone_works_on()


def gather_from_a_rank_that_dies() -> str:
    """Rank 0 finds the memory of rank 1 gone."""
    with allranks.session(cpu=True, timeout=timedelta(seconds=PATIENCE)):
        pids = allranks.all_gather_objects(os.getpid())
        read = peer_memory.read

        def late(pid, address, into, length):
            if length > 16:
                os.kill(pids[1], signal.SIGKILL)
                time.sleep(0.1)
            read(pid, address, into, length)

        peer_memory.read = late
        mine = np.zeros(LARGE if allranks.get_rank() == 1 else 1)
        try:
            allranks.gather_objects(mine)
        except CollectiveError as error:
            told = str(error).replace(str(pids[1]), "PID")
        return told + "; " + refusal(CollectiveError, allranks.gather_objects, 1)


def test_a_sender_that_dies_is_named():
    """Its memory is gone with it; nothing hangs, and nothing looks as if it had arrived."""
    with private_environs(2) as environs:
        first, second = Ranks(gather_from_a_rank_that_dies, environs).results()
    assert second.exit_code == -signal.SIGKILL
    assert "rank 1 (pid PID" in str(first.value), (first.value, first.error)
    assert "no longer usable" in first.value


@pytest.mark.ranks(2, setup=False)
def test_a_receiver_that_stops(monkeypatch, unchecked):
    """The sender learns of it at the group's timeout, and its memory stays until then and after."""
    rank, _ = rank_and_size()
    group = dist.new_group(timeout=timedelta(seconds=1))
    who = process_groups.members_of("test", group)
    bulk.reach(who)
    pids = allranks.all_gather_objects(os.getpid())
    read = peer_memory.read

    def stopping(pid, address, into, length):
        if length > LARGE:
            os.kill(os.getpid(), signal.SIGSTOP)
        read(pid, address, into, length)

    monkeypatch.setattr(peer_memory, "read", stopping)
    mine = numbers_of(rank)
    if rank == 1:
        told = refusal(StalledError, allranks.gather_objects, mine, group)
        assert told.startswith("the end of gather_objects did not complete within 1 s")
        assert any(
            np.shares_memory(mine, np.frombuffer(b, np.uint8)) for b in who.cache["outgoing"][0]
        )
        os.kill(pids[0], signal.SIGCONT)
    else:
        with pytest.raises(RuntimeError):
            allranks.gather_objects(mine, group)
    told = refusal(CollectiveError, allranks.gather_objects, 1, group)
    assert "no longer usable" in told
    everyone_works_on()


@pytest.mark.ranks(2, setup=False)
def test_control_c_while_reading_gives_the_group_up(monkeypatch, unchecked):
    """The sender waits no longer than the group's timeout."""
    rank, _ = rank_and_size()
    group = dist.new_group(timeout=timedelta(seconds=1))
    bulk.reach(process_groups.members_of("test", group))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(peer_memory, "read", interrupted)
    with pytest.raises((KeyboardInterrupt, StalledError)) as caught:
        allranks.gather_objects(numbers_of(rank), group)
    assert caught.type is (StalledError if rank else KeyboardInterrupt)
    assert "no longer usable" in refusal(CollectiveError, allranks.gather_objects, 1, group)
    everyone_works_on()


def test_reading_goes_on_after_a_part(monkeypatch):
    """The system copies no more than 2 GB at once, and we less."""
    monkeypatch.setattr(peer_memory, "AT_ONCE", 1000)
    source, into = numbers_of(3), np.zeros(LARGE // 8 + 1, dtype=np.int64)
    peer_memory.read(os.getpid(), source.ctypes.data, into.ctypes.data, source.nbytes)
    assert (into == source).all()


def test_what_can_be_read_only_in_part_is_an_error():
    """Not an endless loop, and not half of the data."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + page), page, 0) == 0
    into = np.zeros(2 * page, dtype=np.uint8)
    with pytest.raises(OSError, match="Bad address"):
        peer_memory.read(os.getpid(), start, into.ctypes.data, 2 * page)


def test_only_a_card_that_proves_right_is_believed(monkeypatch):
    """A pid may mean another process on another host, or be used again."""
    probe, secret = peer_memory.present("here")
    assert peer_memory.readable(probe, "here")
    assert not peer_memory.readable(probe, "on another host")
    assert not peer_memory.readable(probe._replace(secret="00" * len(secret)), "here")
    assert not peer_memory.readable(probe._replace(address=8), "here")
    assert not peer_memory.readable(peer_memory.MemoryProbe(), "here")
    monkeypatch.setenv("ALLRANKS_PEER_MEMORY", "0")
    assert not peer_memory.readable(probe, "here")
    assert peer_memory.present("here") == (peer_memory.MemoryProbe(), None)
