"""A file is there whole, or not at all, and on all ranks at once."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import allranks
from allranks.errors import MismatchError, RankFailedError
from harness import PATIENCE


@pytest.mark.ranks(1, 2, 3)
def test_it_is_there_when_the_call_returns(world, tmp_path) -> None:
    path = tmp_path / "model.pt"
    for step in range(2):
        allranks.save({"step": step, "rank": world.rank}, path)
        assert torch.load(path) == {"step": step, "rank": 0}
        allranks.synchronize()
    assert [one.name for one in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.ranks(4)
def test_a_group_without_rank_0_saves(world, tmp_path) -> None:
    group = allranks.split(world.rank > 0)
    path = tmp_path / f"{world.rank > 0}.pt"
    allranks.save(world.rank, str(path), group=group)
    assert torch.load(path) == int(world.rank > 0)


class _Slow:
    def __reduce__(self):
        time.sleep(1.5)
        return int, ()


@pytest.mark.ranks(2, setup=False)
def test_no_collective_waits_for_it(tmp_path) -> None:
    with allranks.session(cpu=True, timeout=timedelta(seconds=1)):
        allranks.save(_Slow(), tmp_path / "slow.pt")
        assert allranks.all_reduce(1) == 2


class _Broken:
    def __reduce__(self):
        raise LookupError("not to be pickled")


@pytest.mark.ranks(1, 3)
def test_an_error_reaches_all_and_keeps_what_was_there(world, tmp_path) -> None:
    path = tmp_path / "model.pt"
    allranks.save("before", path)
    with pytest.raises(LookupError, match="not to be pickled"):
        allranks.save([torch.ones(100_000), _Broken()], path)
    assert torch.load(path) == "before"
    with pytest.raises(FileNotFoundError, match=r"no such directory.*nowhere'$"):
        allranks.save(1, tmp_path / "nowhere" / "model.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["model.pt"]
    assert allranks.all_reduce(1) == world.world_size


@pytest.mark.ranks(2)
def test_a_rank_that_makes_another_call(world, tmp_path) -> None:
    call = allranks.synchronize if world.rank else lambda: allranks.save(1, tmp_path / "model.pt")
    with pytest.raises(MismatchError, match="different calls"):
        call()


def test_permissions_are_those_of_any_file(tmp_path) -> None:
    path = tmp_path / "model.pt"
    allranks.save(1, path)
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    path.chmod(0o600)
    allranks.save(2, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


class _Killed:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
        return int, ()


def dying(path: str) -> None:
    allranks.setup(cpu=True)
    allranks.all_reduce(1)
    allranks.save([torch.ones(100_000), _Killed()], path)


def test_a_rank_that_is_killed_leaves_what_was_there(tmp_path) -> None:
    path = tmp_path / "model.pt"
    allranks.save("before", path)
    with pytest.raises(RankFailedError, match=r"rank 0.*SIGKILL"):
        allranks.launch(dying, (str(path),), ranks=2, timeout=PATIENCE)
    assert torch.load(path) == "before"


def test_a_reader_sees_the_old_one_or_the_new_one(tmp_path) -> None:
    path, over, seen = tmp_path / "model.pt", threading.Event(), set()
    allranks.save(torch.full((100_000,), -1.0), path)

    def read() -> None:
        while not over.is_set():
            tensor = torch.load(path)
            seen.add((tensor.numel(), tensor.unique().numel()))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(30):
        allranks.save(torch.full((100_000,), float(step)), path)
    over.set()
    reader.join()
    assert seen == {(100_000, 1)}
    assert Path(path).exists()
