"""A device that has a backend of its own beside gloo: NCCL on GPUs, another on the stand-in."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.distributed as dist

import allranks
import stand_in
from allranks.errors import CollectiveError
from gpus import ON_STAND_IN, needs_gpus, world_on

pytestmark = pytest.mark.gpu

ON_TWO = pytest.mark.parametrize(
    "kind", [ON_STAND_IN, pytest.param("cuda", id="gpus", marks=needs_gpus(2))]
)
TWO = pytest.mark.ranks(2, setup=False, timeout=300)
THREE = pytest.mark.ranks(3, setup=False, timeout=300)
NAMES = {"cuda": "nccl", stand_in.KIND: stand_in.BACKEND}
MANY = 300_000


def is_at(tensor, device, expected) -> bool:
    """Whether a tensor lies on a device, and has these values."""
    assert tensor.device == device, tensor.device
    return tensor.tolist() == expected


@ON_TWO
@TWO
def test_by_default_each_kind_of_tensor_has_its_backend(kind) -> None:
    """Torch's own default for a GPU moves no CPU tensor."""
    with world_on(kind, None, devices=2) as device:
        rank = allranks.get_rank()
        assert dist.get_backend_config() == f"cpu:gloo,{kind}:{NAMES[kind]}"
        assert device == torch.device(kind, rank)
        assert dist.group.WORLD.bound_device_id == device
        for where in (device, torch.device("cpu")):
            assert is_at(allranks.all_reduce(torch.ones(MANY, device=where)), where, [2.0] * MANY)
        allranks.synchronize()
        if rank == 0:
            allranks.send(torch.ones(2, device=device), 1)
        else:
            assert is_at(allranks.recv(0), device, [1.0, 1.0])


@ON_TWO
@TWO
@pytest.mark.parametrize("only", [False, True], ids=["beside-gloo", "alone"])
def test_every_collective_moves_tensors_by_it(kind, only) -> None:
    """Also where the group has no gloo: then one is made beside it for all else."""
    backend = f"{kind}:{NAMES[kind]}" if only else None
    with world_on(kind, backend, devices=2) as device:
        rank = allranks.get_rank()
        for count in (2, MANY):
            ones = torch.ones(count, device=device)
            assert is_at(allranks.all_reduce(ones.clone(), op="max"), device, [1.0] * count)
            assert is_at(allranks.all_reduce(ones * 1j), device, [2j] * count)
            bits = torch.full((count,), 1 << rank, device=device)
            assert is_at(allranks.all_reduce(bits, op="bor"), device, [3] * count)
            tree = allranks.all_reduce({"there": ones, "here": torch.ones(count), "n": 1})
            assert is_at(tree["there"], device, [2.0] * count)
            assert is_at(tree["here"], torch.device("cpu"), [2.0] * count)
            assert tree["n"] == 2
            both = allranks.all_gather(ones * rank)
            assert is_at(both[1], device, [1.0] * count)
            rows = allranks.all_gather(ones[: count - 1 + rank] * rank, cat=True)
            assert is_at(rows, device, [0.0] * (count - 1) + [1.0] * count)
            assert is_at(allranks.reduce_scatter([ones, ones]), device, [2.0] * count)
            assert is_at(allranks.reduce_scatter([bits, bits], op="band"), device, [3] * count)
            got = allranks.all_to_all([ones * rank, ones[1:] * rank])
            assert [len(part) for part in got] == [count - rank] * 2
            mine = ones * rank
            assert is_at(allranks.broadcast(mine, 1) or mine, device, [1.0] * count)
            work = allranks.broadcast(mine.fill_(rank), 0, async_op=True)
            work.wait()
            assert is_at(mine, device, [0.0] * count)
        assert allranks.all_gather_objects(torch.ones(1, device=device))[1 - rank].tolist() == [1]
        allranks.synchronize()


@ON_TWO
@TWO
def test_a_tensor_like_an_earlier_one_takes_few_steps(kind, monkeypatch) -> None:
    """On its device as on the CPU; another device, dtype or operation begins anew."""
    whole = importlib.import_module("allranks._collectives.all_reduce")
    with world_on(kind, None, devices=2) as device:
        allranks.all_reduce(torch.ones(3, device=device))
        allranks.all_reduce(torch.ones(3))
        slow = []
        before = whole.reduce_in_place
        monkeypatch.setattr(whole, "reduce_in_place", lambda *a: (slow.append(a), before(*a)))
        for where in (device, torch.device("cpu"), device):
            assert is_at(allranks.all_reduce(torch.ones(5, device=where)), where, [2.0] * 5)
        assert slow == []
        turned = torch.ones(2, 3, device=device).t()
        assert is_at(allranks.all_reduce(turned), device, [[2.0] * 2] * 3)
        bits = torch.ones(2, dtype=torch.int64, device=device)
        for _ in range(2):
            assert is_at(allranks.all_reduce(bits, op="band"), device, [1, 1])
        assert len(slow) == 3


@ON_TWO
@TWO
def test_messages_need_a_backend_for_the_cpu(kind) -> None:
    told = pytest.raises(CollectiveError, match="this group has no backend for it, such as gloo")
    with world_on(kind, f"{kind}:{NAMES[kind]}", devices=2), told:
        allranks.send(1, 1 - allranks.get_rank())


def split_as_others_do_not_come(kind: str) -> None:
    """Rank 2 is in none of the groups, and makes no call for them."""
    with world_on(kind, None, devices=3) as device:
        rank = allranks.get_rank()
        bound = dist.group.WORLD.bound_device_id
        part = allranks.split(0 if rank < 2 else None)
        if rank < 2:
            assert is_at(allranks.all_reduce(torch.ones(3, device=device), part), device, [2.0] * 3)
            alone = allranks.split(rank, group=part)
            assert allranks.all_reduce(1, alone) == 1
            assert is_at(allranks.all_reduce(torch.ones(1, device=device), alone), device, [1.0])
            allranks.synchronize(group=part)
        assert dist.group.WORLD.bound_device_id == bound == device
        allranks.synchronize()


@THREE
@pytest.mark.parametrize("kind", [ON_STAND_IN])
def test_a_split_waits_for_none_but_its_ranks(kind, monkeypatch) -> None:
    """From a bound WORLD torch would split NCCL's communicator off, for which all must come."""
    asked = []
    torchs = dist.distributed_c10d
    monkeypatch.setattr(torchs, "_get_split_source", asked.append)
    split_as_others_do_not_come(kind)
    assert asked == []


@needs_gpus(3)
@THREE
def test_a_split_of_nccl_waits_for_none_but_its_ranks() -> None:
    split_as_others_do_not_come("cuda")


@ON_TWO
@TWO
def test_it_comes_up_again(kind) -> None:
    for _ in range(2):
        with world_on(kind, None, devices=2) as device:
            assert is_at(allranks.all_reduce(torch.ones(1, device=device)), device, [2.0])
