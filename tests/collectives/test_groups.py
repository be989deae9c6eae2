"""Groups within the world: by color, in the order of keys, by host."""

from __future__ import annotations

import inspect
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._system.waiting import BackgroundCall
from allranks._transport import process_groups
from allranks._watch import flight_recorder, torch_groups
from allranks.errors import CollectiveError, ConfigError
from harness import PATIENCE
from hosts_on_one import as_on_two_hosts


@pytest.mark.ranks(1, 2, 3, 4)
def test_equal_colors_make_a_group(world) -> None:
    """Every rank gets its own group, and every collective is right on it."""
    group = allranks.split("even" if world.rank % 2 == 0 else ("odd", 1))
    mine = [rank for rank in range(world.world_size) if rank % 2 == world.rank % 2]
    assert dist.get_process_group_ranks(group) == mine
    assert allranks.all_gather(world.rank, group) == mine
    assert allranks.all_reduce(torch.tensor([world.rank]), group).item() == sum(mine)
    assert allranks.all_reduce({"a": 1.0}, group) == {"a": float(len(mine))}
    assert allranks.broadcast_object(world.rank, mine[-1], group) == mine[-1]
    assert allranks.gather_objects(world.rank, group) == (mine if world.rank == mine[0] else None)
    parts = [torch.ones(i + 1) for i in range(len(mine))]
    assert len(allranks.reduce_scatter(parts, group)) == mine.index(world.rank) + 1
    assert allranks.all_gather(torch.ones(world.rank), group, cat=True).numel() == sum(mine)
    again = allranks.split(0, group=group)
    assert again is not group
    assert allranks.all_gather(world.rank, again) == mine


ORDERS_RANKS = "sort_ranks" in inspect.signature(dist.new_group).parameters
"""Whether a group of torch's can have another order than its ranks'; not in torch 2.9."""


@pytest.mark.skipif(not ORDERS_RANKS, reason="this torch always orders a group by rank")
@pytest.mark.ranks(4)
def test_keys_order_the_ranks_of_a_group(world) -> None:
    group = allranks.split(world.rank < 3, key=-world.rank)
    expected = [2, 1, 0] if world.rank < 3 else [3]
    assert dist.get_process_group_ranks(group) == expected
    assert allranks.all_gather(world.rank, group) == expected
    first = allranks.gather_objects(world.rank, group)
    assert first == (expected if world.rank in (2, 3) else None)


@pytest.mark.skipif(ORDERS_RANKS, reason="this torch orders a group as it is told")
@pytest.mark.ranks(4)
def test_keys_that_torch_cannot_follow_are_refused(world) -> None:
    if world.rank < 3:
        with pytest.raises(ConfigError, match="always orders a group by rank"):
            allranks.split(0, key=-world.rank)
    else:
        assert dist.get_process_group_ranks(allranks.split(1, key=-world.rank)) == [3]
    assert allranks.all_reduce(1) == 4


@pytest.mark.ranks(3)
def test_no_color_is_no_group(world) -> None:
    """What stands for it is refused: None would be taken for WORLD."""
    group = allranks.split(None if world.rank == 1 else 0)
    if world.rank == 1:
        with pytest.raises(CollectiveError, match="rank 1 is not in this group"):
            allranks.all_reduce(1, group)
    else:
        assert allranks.all_reduce(1, group) == 2
    assert allranks.all_reduce(1) == 3


@pytest.mark.ranks(2)
def test_a_color_that_cannot_be_is_an_error_on_all_ranks(world) -> None:
    with pytest.raises(CollectiveError, match="rank 1: its tuple cannot be pickled"):
        allranks.split((lambda: 1) if world.rank else 0)
    with pytest.raises(CollectiveError, match=r"split: .*TypeError"):
        allranks.split(0, key="b" if world.rank else 1)
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(2, setup=False)
def test_the_timeout_is_inherited() -> None:
    with allranks.session(cpu=True, timeout=timedelta(seconds=77)):
        for group in (allranks.split(0), allranks.node_group()):
            assert process_groups.timeout(group).total_seconds() == 77


@pytest.mark.ranks(1, 3)
def test_one_host_is_one_node(world) -> None:
    """The same group at each call, and another one after another setup."""
    node = allranks.node_group()
    assert node is allranks.node_group()
    assert allranks.all_gather(world.rank, node) == list(range(world.world_size))
    leaders = allranks.leaders_group()
    if world.rank == 0:
        assert allranks.all_gather(0, leaders) == [0]
    else:
        with pytest.raises(CollectiveError, match="is not in this group"):
            allranks.all_gather(0, leaders)


def test_without_setup_none_means_the_world_of_one() -> None:
    assert allranks.node_group() is None
    assert allranks.leaders_group() is None
    assert allranks.split("any") is None
    assert allranks.all_reduce(2, allranks.node_group()) == 2
    with pytest.raises(CollectiveError, match="nobody is in this group"):
        allranks.all_reduce(2, allranks.split(None))


@pytest.mark.ranks(4, setup=False)
def test_two_hosts_are_two_nodes(monkeypatch) -> None:
    """As a launcher tells it that started two ranks on each."""
    rank = as_on_two_hosts(monkeypatch)
    with allranks.session(cpu=True):
        node = allranks.node_group()
        assert allranks.all_gather(rank, node) == [0, 1] if rank < 2 else [2, 3]
        if rank % 2 == 0:
            assert allranks.all_gather(rank, allranks.leaders_group()) == [0, 2]
        else:
            allranks.leaders_group()


@pytest.mark.ranks(3)
def test_ranks_of_different_numbers_of_groups_meet(world) -> None:
    """Where torch's own names for such groups would differ."""
    allranks.split(0 if world.rank < 2 else None)
    allranks.leaders_group()
    assert allranks.all_reduce(1, allranks.split("all")) == 3
    pair = allranks.split(world.rank // 2)
    inner = allranks.split(0, group=pair)
    assert allranks.all_gather(world.rank, inner) == ([0, 1] if world.rank < 2 else [2])


@pytest.mark.ranks(3)
def test_a_group_that_was_destroyed_is_not_met_again(world) -> None:
    for _ in range(5):
        group = allranks.split(0)
        assert allranks.all_reduce(1, group) == 3
        dist.destroy_process_group(group)


@pytest.mark.ranks(2)
def test_what_is_not_equal_to_itself_is_alone(world) -> None:
    """Never None, which would mean WORLD."""
    group = allranks.split(float("nan"))
    assert allranks.all_gather(world.rank, group) == [world.rank]
    with pytest.raises(CollectiveError, match=r"unhashable type: 'list'"):
        allranks.split([1])


@pytest.mark.ranks(2, setup=False)
def test_the_hosts_groups_go_with_their_world() -> None:
    """Else they would keep the port of rank 0, which the next world needs."""
    for name in [name for name in os.environ if name.startswith("ALLRANKS_")]:
        del os.environ[name]
    for _ in range(3):
        with allranks.session(cpu=True, rendezvous_timeout=PATIENCE):
            assert allranks.all_reduce(1, allranks.node_group()) == 2
            allranks.leaders_group()


def fill_the_pool_of_threads() -> None:
    """Our threads for blocking calls stay: there are as many as have ever been busy at once."""
    over = threading.Event()
    waiting = [BackgroundCall(over.wait) for _ in range(6)]
    over.set()
    for one in waiting:
        one.result(PATIENCE)


def destroying_groups(rounds: int) -> list[tuple[int, int]]:
    """How many descriptors and threads there are after each round of a group's whole life."""
    held = []
    with allranks.session(cpu=True):
        fill_the_pool_of_threads()
        for _ in range(rounds):
            pair = allranks.split(0)
            allranks.all_reduce({"loss": 1.0}, pair)
            allranks.all_gather(torch.ones(3), pair)
            dist.destroy_process_group(pair)
            del pair
            threads = len(list(Path("/proc/self/task").iterdir()))
            held.append((len(list(Path("/proc/self/fd").iterdir())), threads))
    return held


def test_a_group_that_was_destroyed_leaves_nothing() -> None:
    """Neither our sockets, nor gloo's and its threads, which would live as long as it is kept."""
    for held in allranks.launch(destroying_groups, (30,), ranks=2, timeout=PATIENCE):
        early, late = held[4:8], held[-4:]
        assert max(files for files, _ in late) <= max(files for files, _ in early)
        assert max(threads for _, threads in late) <= max(threads for _, threads in early)


def destroying_the_node_group() -> list[int]:
    with allranks.session(cpu=True):
        sums = []
        for _ in range(3):
            sums.append(allranks.all_reduce(1, allranks.node_group()))
            dist.destroy_process_group(allranks.node_group())
        return sums


def test_a_host_group_that_was_destroyed_is_made_anew() -> None:
    assert allranks.launch(destroying_the_node_group, ranks=2, timeout=PATIENCE) == [[2, 2, 2]] * 2


def many_groups_at_once(how: str) -> dict[str, list[int]]:
    """The descriptors and threads with no group, with many, and when they are destroyed."""
    with allranks.session(cpu=True):
        allranks.all_reduce(torch.ones(1))
        held = {"before": open_things()}
        groups = [allranks.node_group(), *(allranks.split(0) for _ in range(20))]
        held["with"] = open_things()
        if how == "torch has no table":
            torch_groups.table = lambda: None
        for group in groups:
            dist.destroy_process_group(group)
        del group, groups
        for _ in range(3):
            allranks.all_reduce(1)
        held["after"] = open_things()
        held["last exchanges"] = [len(flight_recorder.last_exchanges())]
    return held


def open_things() -> list[int]:
    return [len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task")]


@pytest.mark.parametrize("how", ["torch has a table", "torch has no table"])
def test_many_groups_that_were_destroyed_at_once_leave_nothing(how: str) -> None:
    """Though the program makes no other group afterwards, and uses only WORLD."""
    for held in allranks.launch(many_groups_at_once, (how,), ranks=2, timeout=PATIENCE):
        assert all(b - a >= 20 for a, b in zip(held["before"], held["with"], strict=True))
        assert all(c - a <= 3 for a, c in zip(held["before"], held["after"], strict=True)), held
        assert held["last exchanges"] == [1]


def destroying_a_group_in_use() -> float:
    """Rank 0 has a collective in flight that rank 1 makes only after its own calls."""
    with allranks.session(cpu=True) as world:
        group = allranks.split(0)
        allranks.all_reduce(1, group)
        if world.rank == 0:
            dist.all_reduce(torch.ones(1), group=group, async_op=True)
            dist.destroy_process_group(group)
            del group
        total = sum(allranks.all_reduce(1) for _ in range(5))
        if world.rank == 1:
            dist.all_reduce(torch.ones(1), group=group)
        allranks.synchronize()
        return total


@pytest.mark.skipif(
    torch.__version__ < "2.8", reason="this torch drops a group under the interpreter's lock"
)
def test_a_group_that_was_destroyed_in_use_keeps_nobody_waiting() -> None:
    """Its end waits for the collective, which the other rank makes when the calls are over."""
    assert allranks.launch(destroying_a_group_in_use, ranks=2, timeout=PATIENCE) == [10, 10]
