"""A file is there whole, or not at all, and on all ranks at once."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

import allranks
from allranks._watch import failures
from allranks.errors import MismatchError, PeerFailedError, RankFailedError
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
    with pytest.raises(TypeError, match=r"save takes a path, .*BytesIO; for an open file: "):
        allranks.save({}, io.BytesIO())
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


WITHOUT_ROOM = """
import sys, torch, allranks
from pathlib import Path
data = torch.ones(int(sys.argv[2]))
with allranks.session(cpu=True) as world:
    try:
        allranks.save(data if world.rank == 0 else None, Path(sys.argv[1]) / "model.pt")
    except OSError as error:
        print("told", world.rank, type(error).__name__, error)
        assert not list(Path(sys.argv[1]).iterdir())
    assert allranks.all_reduce(1) == 2
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root")
@pytest.mark.parametrize("numbers", ["1000000", "16000"])
def test_a_disk_that_is_full_is_told_as_that(tmp_path, numbers: str) -> None:
    """Within torch, which says something else of it, or when the rest is flushed."""
    script, room = tmp_path / "script.py", tmp_path / "room"
    script.write_text(WITHOUT_ROOM)
    room.mkdir()
    done = subprocess.run(
        [
            *("unshare", "--mount", "bash", "-c"),
            'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"',
            str(room),
            *(sys.executable, "-m", "allranks", "run", "-n", "2", str(script), str(room), numbers),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    told = f"OSError [Errno 28] No space left on device: '{room}/model.pt'"
    for rank in range(2):
        assert f"{rank}│ told {rank} {told}\n" in done.stdout, done
    assert done.returncode == 0, done.stderr


BLAMED = """
import time, allranks
from allranks._process_group import together
tell = together.broadcast_as
with allranks.session(cpu=True) as world:
    if world.rank == 0:
        together.broadcast_as = lambda *given: (tell(*given), time.sleep(0.5))[0]
    allranks.save(1, "/nonexistent/model.pt")
"""


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_the_rank_that_could_not_write_is_blamed(tmp_path, how: tuple) -> None:
    """Not those that have only heard of it, and tell it first."""
    script = tmp_path / "script.py"
    script.write_text(BLAMED)
    done = subprocess.run(
        [sys.executable, "-m", "allranks", "run", "-n", "3", *how, str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    named = [line for line in done.stderr.splitlines() if line.startswith("allranks: rank")]
    assert len(named) == 1, done.stderr
    assert named[0].startswith("allranks: rank 0 (pid ")
    assert "no such directory: '/nonexistent'" in named[0]


def heard_late(path: str) -> None:
    from allranks._process_group import together

    tell = together.broadcast_as
    with allranks.session(cpu=True) as world:
        if world.rank == 0:
            together.broadcast_as = lambda *given: (tell(*given), time.sleep(0.5))[0]
        allranks.save(1, path)


def test_launch_raises_that_of_the_rank_that_could_not_write() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        allranks.launch(heard_late, ("/nonexistent/model.pt",), ranks=3, timeout=PATIENCE)
    assert str(caught.value.__cause__).startswith("after rank 0, ranks 1-2 failed")


class _Unwritable:
    def __reduce__(self):
        time.sleep(1)
        raise OSError(28, "the disk is full")


def other_troubles(path: str) -> str:
    allranks.setup(cpu=True)
    if allranks.get_rank() == 2:
        failures.announce(LookupError("of rank 2"))
        return ""
    with pytest.raises((OSError, PeerFailedError)) as caught:
        allranks.save(_Unwritable(), path)
    return f"{caught.type.__name__}: {caught.value}"


def test_rank_0_keeps_its_own_cause_where_another_rank_has_failed(tmp_path) -> None:
    path = tmp_path / "model.pt"
    first, second, _ = allranks.launch(other_troubles, (str(path),), ranks=3, timeout=PATIENCE)
    assert first == f"OSError: [Errno 28] the disk is full: '{path}'"
    assert second.startswith("PeerFailedError: rank 2 ")
