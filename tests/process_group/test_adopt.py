"""A process group that other code has made: a device for each rank, a watch, a description."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

import allranks
from accelerators import FakeAccelerator
from allranks.errors import DeviceError, MissingRanksError, PeerFailedError
from harness import PATIENCE, Ranks, env_environs, free_port

LONG = 2.0 * PATIENCE
"""Seconds of every timeout of ours in here: whoever waits for one of them does not end in time."""


def spawned(port: int):
    """What ``mp.spawn`` gives its processes: nothing but their arguments."""
    return [(rank, f"tcp://127.0.0.1:{port}") for rank in range(2)]


def made_by_other_code(rank: int | None, method: str | None) -> None:
    given = {} if rank is None else {"rank": rank, "world_size": 2}
    dist.init_process_group("gloo", init_method=method, timeout=timedelta(seconds=LONG), **given)


def run(function, *arguments, environs=None):
    """How two ranks end that make a group without allranks, and adopt it."""
    if environs:
        return Ranks(function, environs, None, None, *arguments).results()
    started = [Ranks(function, [{}], *place, *arguments) for place in spawned(free_port())]
    return [ended for one in started for ended in one.results()]


def devices_of_a_group(rank, method, chosen=None):
    gpus = FakeAccelerator("cuda", 2)
    gpus.put_in()
    made_by_other_code(rank, method)
    if chosen is not None:
        torch.cuda.set_device(chosen[dist.get_rank()])
    allranks.setup()
    here = allranks.get_device_for_local_rank()
    place = allranks.get_local_rank(), allranks.get_local_world_size(), allranks.get_num_nodes()
    allranks.cleanup()
    return here, place, gpus.current


def test_each_rank_of_a_spawned_group_has_its_own_gpu() -> None:
    """Nothing tells the local rank: it is counted through the group, and known afterwards."""
    told = [ended.value for ended in run(devices_of_a_group)]
    assert told == [("cuda:0", (0, 2, 1), 0), ("cuda:1", (1, 2, 1), 1)]


def test_local_rank_decides_where_it_is_set() -> None:
    environs = env_environs(2, free_port())
    told = [ended.value for ended in run(devices_of_a_group, environs=environs)]
    assert [one[0] for one in told] == ["cuda:0", "cuda:1"]


def test_a_gpu_that_other_code_has_chosen_stays() -> None:
    """Any but the first, which is current where nobody has chosen."""
    told = [ended.value for ended in run(devices_of_a_group, (1, 1))]
    assert [one[0] for one in told] == ["cuda:1", "cuda:1"]
    assert [one[2] for one in told] == [1, 1]


def described(rank, method):
    made_by_other_code(rank, method)
    allranks.setup(cpu=True)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")
    told = [os.environ[name] for name in names]
    allranks.cleanup()
    return told, [os.environ.get(name) for name in names]


def test_an_adopted_group_is_described_in_the_environment() -> None:
    """As any other, and no longer after ``cleanup``."""
    one, other = (ended.value for ended in run(described))
    assert one == (["0", "2", "0", "2", "1"], [None] * 5)
    assert other == (["1", "2", "1", "2", "1"], [None] * 5)


def dying(rank, method):
    made_by_other_code(rank, method)
    allranks.setup(cpu=True, stall_after=LONG)
    allranks.all_reduce({"loss": 1.0})
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    allranks.all_reduce({"loss": 1.0})


def test_a_rank_of_an_adopted_group_that_dies_is_named() -> None:
    """It has a watch like any other."""
    survivor, _ = run(dying)
    assert isinstance(survivor.error, PeerFailedError), survivor
    assert "rank 1" in str(survivor.error)
    assert "SIGKILL" in str(survivor.error)


def again(rank, method):
    worlds = []
    for _ in range(2):
        made_by_other_code(rank, method)
        allranks.setup(cpu=True)
        worlds.append(allranks.all_reduce(allranks.get_rank()))
        allranks.cleanup()
        method = method and f"{method.rpartition(':')[0]}:{int(method.rpartition(':')[2]) + 1}"
    return worlds


def test_a_second_group_is_adopted_after_the_first() -> None:
    assert [ended.value for ended in run(again)] == [[1, 1], [1, 1]]


def alone(rank, method):
    made_by_other_code(rank, method)
    if rank == 0:
        allranks.setup(cpu=True, rendezvous_timeout=1)
    else:
        dist.destroy_process_group()


def test_a_rank_that_does_not_call_setup_is_named() -> None:
    ended, _ = run(alone)
    assert isinstance(ended.error, MissingRanksError), ended
    assert ended.error.missing == (1,)
    assert "Did all of them call allranks.setup()?" in str(ended.error)


def in_two_lives(rank, method):
    """A group that is left as it is: it can be used after a failed adoption."""
    made_by_other_code(rank, method)
    FakeAccelerator(None).put_in()
    with pytest.raises(DeviceError, match="no accelerator"):
        allranks.setup(cpu=False)
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return total.item()


def test_a_failed_adoption_leaves_the_group_as_it_is() -> None:
    assert [ended.value for ended in run(in_two_lives)] == [2.0, 2.0]
