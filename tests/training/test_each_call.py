"""Calls of a copied ``dist_utils.py``: on any number of ranks, in any group, one rank wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import allranks
import allranks.autograd
from allranks.errors import CollectiveError, PeerFailedError
from allranks.meters import MetricLogger
from harness import run_ranks


class Place(NamedTuple):
    """Where a rank makes a call."""

    rank: int
    ranks: tuple[int, ...]
    group: Any
    path: Path

    @property
    def last(self) -> int:
        return self.ranks[-1]

    @property
    def is_last(self) -> bool:
        return self.rank == self.last

    @property
    def size(self) -> int:
        return len(self.ranks)


def reduce(at: Place) -> None:
    wanted = sum(at.ranks) if at.is_last else None
    assert allranks.reduce(at.rank, at.last, at.group) == wanted


def gather(at: Place) -> None:
    rows = allranks.gather(torch.full((at.rank,), at.rank), at.last, at.group)
    assert (rows and [len(one) for one in rows]) == (list(at.ranks) if at.is_last else None)


def gather_objects(at: Place) -> None:
    told = allranks.gather_objects({"rank": at.rank}, at.group, dst=at.last)
    assert told == ([{"rank": rank} for rank in at.ranks] if at.is_last else None)


def send_recv(at: Place) -> None:
    if at.rank == at.ranks[0] and at.size > 1:
        allranks.send(torch.arange(5), at.last, group=at.group)
    elif at.is_last and at.size > 1:
        assert allranks.recv(at.ranks[0], group=at.group).tolist() == [0, 1, 2, 3, 4]


def all_to_all(at: Place) -> None:
    made = allranks.all_to_all([torch.full((at.rank,), rank) for rank in at.ranks], at.group)
    assert [one.tolist() for one in made] == [[at.rank] * rank for rank in at.ranks]


def broadcast(at: Place) -> None:
    state = {"weight": torch.full((3,), float(at.rank)), "steps": at.rank}
    told = allranks.broadcast(state, at.last, at.group)
    assert state["weight"].tolist() == [float(at.last)] * 3
    assert told["steps"] == at.last


def sync_module(at: Place) -> None:
    torch.manual_seed(at.rank)
    model = torch.nn.Linear(2, 2)
    allranks.sync_module(model, at.last, group=at.group)
    torch.manual_seed(at.last)
    assert torch.equal(model.weight, torch.nn.Linear(2, 2).weight)


def average_buffers(at: Place) -> None:
    model = torch.nn.BatchNorm1d(2)
    model.running_mean.fill_(float(at.rank))
    allranks.average_buffers(model, group=at.group)
    assert model.running_mean.tolist() == pytest.approx([sum(at.ranks) / at.size] * 2)


def check_same(at: Place) -> None:
    allranks.check_same({"weight": torch.ones(3), "lr": 0.1}, group=at.group)


def shared_seed(at: Place) -> None:
    seed = allranks.shared_seed(group=at.group)
    assert allranks.all_gather_objects(seed, at.group) == [seed] * at.size


def gather_shards(at: Place) -> None:
    mine = allranks.shard(list(range(7)), at.group)
    assert allranks.gather_shards([f"{one}" for one in mine], group=at.group) == list("0123456")


def save(at: Place) -> None:
    path = at.path / f"{at.ranks[0]}.pt"
    allranks.save({"rank": at.rank}, path, group=at.group)
    assert torch.load(path) == {"rank": at.ranks[0]}


def agree(at: Place) -> None:
    assert allranks.agree(at.is_last, "any", group=at.group)


def autograd(at: Place) -> None:
    given = torch.full((at.rank + 1,), 2.0, requires_grad=True)
    (allranks.autograd.all_gather(given, at.group, cat=True) ** 2).sum().backward()
    assert given.grad is not None
    assert given.grad.tolist() == [4.0 * at.size] * (at.rank + 1)


CALLS = (
    *(reduce, gather, gather_objects, send_recv, all_to_all, broadcast, sync_module),
    *(average_buffers, check_same, shared_seed, gather_shards, save, agree, autograd),
)


def meters(at: Place) -> None:
    logger = MetricLogger()
    logger.update(loss=float(at.rank))
    logger.synchronize_between_processes()
    assert logger.loss.global_avg == pytest.approx(sum(at.ranks) / at.size)


def on_first_of_host(at: Place) -> None:
    assert allranks.on_master(lambda: at.rank, per="node") == 0


def first_of_host_first(at: Place) -> None:
    with allranks.master_first(per="node"):
        assert at.rank == 0 or (at.path / "here").exists()
        (at.path / "here").touch()


def mesh(at: Place) -> None:
    made = allranks.mesh({"dp": -1, "tp": 1})
    assert allranks.all_reduce(1, made["dp"]) == at.size


OF_THE_WORLD = (meters, on_first_of_host, first_of_host_first, mesh)


def _everybody(world: Any, path: Path) -> Place:
    return Place(world.rank, tuple(range(world.world_size)), None, path)


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("call", CALLS + OF_THE_WORLD, ids=lambda call: call.__name__)
def test_on_any_number_of_ranks(world, tmp_path, call) -> None:
    call(_everybody(world, tmp_path))
    assert allranks.all_reduce(1) == world.world_size


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_in_a_group_without_rank_0(world, tmp_path, call) -> None:
    group = allranks.split(None if world.rank == 0 else 1)
    if world.rank:
        call(Place(world.rank, tuple(range(1, world.world_size)), group, tmp_path))
    assert allranks.all_reduce(1) == world.world_size


WRONG = {
    "reduce": lambda last: allranks.reduce(torch.ones(2 + last)),
    "gather": lambda last: allranks.gather(torch.ones((1,) * (1 + last))),
    "gather_objects": lambda last: allranks.gather_objects(1, dst=last * 9),
    "all_to_all": lambda last: allranks.all_to_all([1] * (3 + last)),
    "broadcast": lambda last: allranks.broadcast({"a": torch.ones(2 + last)}, 0),
    "sync_module": lambda last: allranks.sync_module(torch.nn.Linear(2, 2 + last)),
    "average_buffers": lambda last: allranks.average_buffers(torch.nn.BatchNorm1d(2 + last)),
    "check_same": lambda last: allranks.check_same(torch.ones(2 + last)),
    "shared_seed": lambda last: allranks.shared_seed() if not last else allranks.agree(True),
    "gather_shards": lambda last: allranks.gather_shards([1], indices=[int(last), 0][: 1 + last]),
    "save": lambda last: allranks.save(1, "x.pt") if not last else allranks.synchronize(),
    "agree": lambda last: allranks.agree(True, "most" if last else "all"),
    "autograd": lambda last: allranks.autograd.all_reduce(torch.ones(2 + last)),
    "meters": lambda last: _synchronize_meters() if not last else allranks.agree(True),
    "mesh": lambda last: allranks.mesh({"dp": 3 + last}),
}


def _synchronize_meters() -> None:
    logger = MetricLogger()
    logger.update(loss=1.0)
    logger.synchronize_between_processes()


@pytest.mark.ranks(2, 3, 4)
@pytest.mark.parametrize("call", WRONG)
def test_one_wrong_rank_is_the_same_error_on_all(world, tmp_path, monkeypatch, call: str) -> None:
    monkeypatch.chdir(tmp_path)  # Rank 0 of those that save has saved before it hears of others.
    told = "no error"
    try:
        WRONG[call](world.rank == world.world_size - 1)
    except CollectiveError as error:
        told = f"{type(error).__name__}: {error}"
    everywhere = allranks.all_gather_objects(told)
    assert everywhere == [told] * world.world_size
    assert told != "no error"


def _lost(call: Any, leaves: bool, directory: str) -> None:
    with allranks.session(cpu=True) as world:
        allranks.synchronize()
        if world.rank == 1 and not leaves:
            raise LookupError("no shard 7")
        if world.rank == 1:
            return
        call(_everybody(world, Path(directory)))
        allranks.synchronize()  # Where the call itself needs nobody.


@pytest.mark.parametrize("leaves", [False, True], ids=["raises", "is missing"])
@pytest.mark.parametrize("call", CALLS + OF_THE_WORLD, ids=lambda call: call.__name__)
def test_a_rank_that_does_not_make_it_is_named(tmp_path, call, leaves: bool) -> None:
    first, _, last = run_ranks(_lost, 3, call, leaves, str(tmp_path))
    for one in (first, last):
        assert isinstance(one.error, PeerFailedError), one
        assert one.error.rank == 1, one
        assert ("has left" if leaves else "LookupError: no shard 7") in one.text, one
