"""The first rank of each host goes first, and works for the ranks of its host."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest

import allranks
from allranks._process_group import turns
from allranks._system import processes
from allranks.errors import CollectiveError, PeerFailedError, RankFailedError
from harness import PATIENCE, wait_until
from hosts_on_one import as_on_two_hosts


@pytest.mark.ranks(4, setup=False)
def test_each_hosts_first_rank_goes_first(monkeypatch, tmp_path) -> None:
    """Longer than the group's timeout, since no collective is open meanwhile."""
    rank = as_on_two_hosts(monkeypatch)
    with allranks.session(cpu=True, timeout=timedelta(seconds=1)) as world:
        built = tmp_path / f"built-{world.node_rank}"
        for _ in range(2):
            with allranks.master_first(per="node"):
                if rank % 2 == 0 and not built.exists():
                    time.sleep(1.5)
                    built.touch()
                assert built.exists()
        assert allranks.all_reduce(1) == 4


@pytest.mark.ranks(4, setup=False)
def test_each_hosts_first_rank_works_for_its_host(monkeypatch) -> None:
    rank = as_on_two_hosts(monkeypatch)
    with allranks.session(cpu=True):
        made = allranks.on_master(lambda: (rank, os.getpid()), per="node")
        assert made[0] == rank - rank % 2
        assert allranks.on_master(lambda: rank) == 0
        assert allranks.on_master(lambda: rank, per="job") == 0


@pytest.mark.ranks(4, setup=False)
def test_a_failure_is_that_hosts(monkeypatch) -> None:
    rank = as_on_two_hosts(monkeypatch)

    def prepare() -> int:
        if rank == 2:
            raise LookupError("this disk is full")
        return rank

    with allranks.session(cpu=True):
        if rank < 2:
            assert allranks.on_master(prepare, per="node") == 0
        else:
            with pytest.raises(LookupError, match="this disk is full"):
                allranks.on_master(prepare, per="node")
        expected = {0: None, 1: None, 2: LookupError, 3: PeerFailedError}[rank]
        if expected is None:
            with allranks.master_first(per="node"):
                prepare()
        else:
            with pytest.raises(expected) as caught, allranks.master_first(per="node"):
                prepare()
        if rank == 3:
            told = "rank 2 failed in master_first: LookupError: this disk is full"
            assert (str(caught.value), caught.value.rank) == (told, 2)
        assert allranks.all_reduce(1) == 4


def dying_first() -> None:
    monkeypatch = pytest.MonkeyPatch()
    rank = as_on_two_hosts(monkeypatch)
    allranks.setup(cpu=True)
    allranks.all_reduce(1)
    allranks.on_master(lambda: os._exit(3) if rank == 2 else time.sleep(1), per="node")
    allranks.all_reduce(1)


def test_the_death_of_a_hosts_first_rank_is_told() -> None:
    with pytest.raises(RankFailedError, match="rank 2") as caught:
        allranks.launch(dying_first, ranks=4, timeout=PATIENCE)
    others = caught.value.__cause__
    told = [str(error) for error in getattr(others, "exceptions", [others])]
    assert any("rank 2" in text and "in on_master" in text for text in told), told


@pytest.mark.ranks(1, 2)
def test_one_host_is_the_job(world) -> None:
    assert allranks.on_master(lambda: world.rank, per="node") == 0
    with allranks.master_first(per="node"):
        pass


@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("per", ["host", None, 1])
def test_a_place_that_is_none(world, per) -> None:
    wrong = per if world.rank == world.world_size - 1 else "node"
    with pytest.raises(CollectiveError, match='is neither "job" nor "node"'):
        allranks.on_master(lambda: 1, per=wrong)


def slow_to_look() -> str:
    """Rank 1 looks at the process of rank 0 only when that is done, and has ended."""
    look, pids = turns._SignsOfLife.look, []

    def late(signs: object, place: object) -> None:
        wait_until(lambda: processes.is_gone(pids[0]))
        look(signs, place)

    turns._SignsOfLife.look = late
    with allranks.session(cpu=True) as world:
        pids.append(allranks.broadcast_object(os.getpid()))
        with allranks.master_first():
            if world.rank == 0:
                time.sleep(1)
        return f"rank {world.rank}"


def test_a_first_rank_that_is_done_may_leave_at_once() -> None:
    assert allranks.launch(slow_to_look, ranks=2, timeout=PATIENCE) == ["rank 0", "rank 1"]
