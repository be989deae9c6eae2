"""The store of a world whose parent is ours: as torch's, but quick to see a key."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from allranks._rendezvous.private_store import private_store
from allranks._rendezvous.store_file import LENGTHS
from harness import PATIENCE


def test_two_processes_would_share_it(tmp_path) -> None:
    """Two objects on one file: what one sets, the other gets, through a prefix as well."""
    one, other = (private_store(str(tmp_path / "store")) for _ in range(2))
    one.set("key", "value")
    assert other.get("key") == b"value"
    assert other.add("count", 2) + one.add("count", 3) == 7
    assert one.compare_set("key", "value", "new") == b"new"
    assert dist.PrefixStore("a", other).check(["key"]) is False
    dist.PrefixStore("a", one).set("key", b"\x00raw")
    assert other.get("a/key") == b"\x00raw"
    assert other.delete_key("key")
    assert not one.check(["key"])


def test_a_key_that_comes_late_is_waited_for(tmp_path) -> None:
    one, other = (private_store(str(tmp_path / "store")) for _ in range(2))
    setting = threading.Timer(0.1, one.set, ("a/late", "1"))
    setting.start()
    assert dist.PrefixStore("a", other).get("late") == b"1"
    setting.join()


def test_a_key_that_does_not_come_is_an_error_in_time(tmp_path) -> None:
    store = private_store(str(tmp_path / "store"))
    with pytest.raises(dist.DistStoreError, match=r"'never'.*within 0.05 s"):
        store.wait(["never"], timedelta(seconds=0.05))
    store.set_timeout(timedelta(seconds=0.05))
    with pytest.raises(RuntimeError, match="never"):
        dist.PrefixStore("x", store).get("never")


@pytest.mark.parametrize("kept", [3, 12, 60])
def test_what_a_killed_rank_has_half_written_is_cut_off(tmp_path, kept) -> None:
    """FileStore waits for the other half for ever, and keeps the file locked meanwhile."""
    path = tmp_path / "store"
    one, other = (private_store(str(path)) for _ in range(2))
    one.set("key", "value")
    record = LENGTHS.pack(5, 99) + b"other" + bytes(99)
    with path.open("ab") as file:
        file.write(record[:kept])
    assert other.get("key") == b"value"
    assert not other.check(["other"])
    other.set("key", "new")
    assert one.get("key") == b"new"
    assert one.num_keys() == private_store(str(path)).num_keys() == 1


def count(path: str, key: str, number: int, done) -> None:
    store = private_store(path)
    threads = [
        threading.Thread(target=lambda: [store.add(key, 1) for _ in range(number)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()


def test_ranks_and_their_threads_that_write_at_once_lose_nothing(tmp_path) -> None:
    """And a rank that is killed while it writes takes along its own writing at most."""
    path, there = str(tmp_path / "store"), multiprocessing.get_context("forkserver")
    store, ready = private_store(path), [there.Event() for _ in range(4)]
    ranks = [
        there.Process(target=count, args=(path, "count", 300, one), daemon=True)
        for one in ready[:3]
    ]
    killed = there.Process(target=count, args=(path, "killed", 10**9, ready[3]), daemon=True)
    for rank in (killed, *ranks):
        rank.start()
    assert all(one.wait(PATIENCE) for one in ready[:3])
    os.kill(killed.pid, signal.SIGKILL)
    for rank in (killed, *ranks):
        rank.join()
    assert store.get("count") == b"%d" % (3 * 2 * 300)
    assert private_store(path).add("killed", 1) == int(store.get("killed"))


def test_of_two_that_compare_and_set_one_wins(tmp_path) -> None:
    one, other = (private_store(str(tmp_path / "store")) for _ in range(2))
    assert one.compare_set("key", "", "mine") == b"mine"
    assert other.compare_set("key", "", "theirs") == b"mine"
    assert other.compare_set("none", "some", "new") == b"some"
    assert not other.check(["none"])


def test_an_error_of_the_system_is_an_error_of_the_store(tmp_path) -> None:
    """All that use a store expect its errors to be RuntimeErrors."""
    path = tmp_path / "store"
    store = private_store(str(path))
    store.set("key", "value")
    path.unlink()
    for use in (lambda: store.check(["key"]), lambda: store.set("key", "new")):
        with pytest.raises(dist.DistNetworkError, match="store was removed"):
            use()


def test_a_value_that_cannot_be_written_is_an_error_and_nothing_is_lost(tmp_path) -> None:
    store, most = private_store(str(tmp_path / "store")), resource.getrlimit(resource.RLIMIT_FSIZE)
    store.set("key", "value")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most[1]))
    try:
        with pytest.raises(dist.DistError, match="store: File too large"):
            store.set("key", "x" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert store.get("key") == b"value"
    store.set("other", "new")
    assert private_store(str(tmp_path / "store")).get("other") == b"new"
