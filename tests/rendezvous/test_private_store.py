"""The store of a world whose parent is ours: as torch's, but quick to see a key."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist

from allranks._rendezvous.private_store import private_store


def test_two_processes_would_share_it(tmp_path) -> None:
    """Two objects on one file: what one sets, the other gets, through a prefix as well."""
    one, other = (private_store(str(tmp_path / "store"), 2) for _ in range(2))
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
    one, other = (private_store(str(tmp_path / "store"), 2) for _ in range(2))
    setting = threading.Timer(0.1, one.set, ("a/late", "1"))
    setting.start()
    assert dist.PrefixStore("a", other).get("late") == b"1"
    setting.join()


def test_a_key_that_does_not_come_is_an_error_in_time(tmp_path) -> None:
    store = private_store(str(tmp_path / "store"), 1)
    with pytest.raises(dist.DistStoreError, match=r"'never'.*within 0.05 s"):
        store.wait(["never"], timedelta(seconds=0.05))
    store.set_timeout(timedelta(seconds=0.05))
    with pytest.raises(RuntimeError, match="never"):
        dist.PrefixStore("x", store).get("never")
