"""Tensors of a device over gloo, which moves them through the CPU: each comes back where it lay.

On the stand-in, no address of which the CPU can read; and on a GPU, two ranks on one.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import allranks
import allranks.autograd
from allranks.errors import CollectiveError, MismatchError
from gpus import ON_BOTH, world_on

pytestmark = [pytest.mark.gpu, ON_BOTH]

TWO = pytest.mark.ranks(2, setup=False, timeout=300)
MANY = 300_000
"""Elements that travel by themselves, and not with a header."""


def is_at(tensor, device, expected) -> bool:
    """Whether a tensor lies on a device, and has these values."""
    assert type(tensor) is torch.Tensor
    assert tensor.device == device, tensor.device
    return tensor.tolist() == expected


@pytest.mark.ranks(1, 2, setup=False, timeout=300)
def test_a_tensor_is_reduced_where_it_lies(kind) -> None:
    with world_on(kind) as device:
        rank, size = allranks.get_rank(), allranks.get_world_size()
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.uint8):
            for count in (3, MANY):
                tensor = torch.full((count,), rank + 1, dtype=dtype, device=device)
                at = tensor.data_ptr()
                assert allranks.all_reduce(tensor) is tensor
                assert is_at(tensor, device, [size * (size + 1) // 2] * count)
                assert tensor.data_ptr() == at
        pairs = [("max", float(size)), ("min", 1.0), ("mean", (size + 1) / 2), ("prod", size)]
        for op, expected in pairs:
            tensor = torch.full((2,), float(rank + 1), device=device)
            assert is_at(allranks.all_reduce(tensor, op=op), device, [expected] * 2)
        bits = torch.tensor([1 << rank], device=device)
        assert is_at(allranks.all_reduce(bits, op="bor"), device, [2**size - 1])
        turned = torch.ones(2, 3, device=device).t()
        assert is_at(allranks.all_reduce(turned, average=True), device, [[1.0] * 2] * 3)
        numbers = torch.full((2,), 1j, device=device)
        assert is_at(allranks.all_reduce(numbers), device, [size * 1j] * 2)


@TWO
def test_what_gloo_cannot_reduce_is_said_before_anything_is_sent(kind) -> None:
    """A tensor of int16 is no data for gloo, wherever it lies."""
    with world_on(kind) as device:
        tensor = torch.ones(2, dtype=torch.int16, device=device)
        for data in (tensor, {"counts": tensor}):
            with pytest.raises(
                CollectiveError, match=r"gloo has no sum of tensors of torch\.int16"
            ):
                allranks.all_reduce(data)
        assert is_at(allranks.all_reduce(tensor.int()), device, [2, 2])


@TWO
def test_a_tree_may_mix_devices(kind) -> None:
    """Each leaf comes back where it was; numbers and arrays as on the CPU."""
    with world_on(kind) as device:
        for count in (2, MANY):
            data = {
                "there": torch.ones(count, device=device),
                "here": torch.ones(count),
                "more": [torch.ones(1, dtype=torch.int64, device=device), 0.5, np.ones(2)],
            }
            made = allranks.all_reduce(data)
            assert is_at(made["there"], device, [2.0] * count)
            assert is_at(made["here"], torch.device("cpu"), [2.0] * count)
            assert is_at(made["more"][0], device, [2])
            assert (made["more"][1], made["more"][2].tolist()) == (1.0, [2.0, 2.0])
            assert data["there"].tolist() == [1.0] * count


@TWO
def test_a_tensor_on_a_device_and_one_on_the_cpu_are_different_calls(kind) -> None:
    """And each rank is told by words, before anything is moved."""
    with world_on(kind) as device:
        mine = torch.ones(2, device=device if allranks.get_rank() else "cpu")
        with pytest.raises(MismatchError, match=rf"on {kind}"):
            allranks.all_reduce({"loss": mine})


@TWO
def test_a_broadcast_overwrites_in_place(kind) -> None:
    with world_on(kind) as device:
        rank = allranks.get_rank()
        for count in (3, MANY):
            tensor = torch.full((count,), float(rank), device=device)
            allranks.broadcast(tensor, 1)
            assert is_at(tensor, device, [1.0] * count)
            work = allranks.broadcast(tensor.fill_(rank), 0, async_op=True)
            work.wait()
            assert is_at(tensor, device, [0.0] * count)
            tree = {"w": tensor.fill_(rank), "here": torch.full((2,), rank), "step": rank}
            made = allranks.broadcast(tree, 1)
            assert made["w"].data_ptr() == tensor.data_ptr()
            assert is_at(made["w"], device, [1.0] * count)
            assert (made["here"].tolist(), made["step"]) == ([1, 1], 1)
        model = nn.Linear(2, 2).to(device)
        with torch.no_grad():
            model.weight.fill_(rank)
        allranks.broadcast(model.state_dict(), 1)
        assert model.weight.device == device
        assert model.weight.tolist() == [[1.0, 1.0]] * 2


@TWO
def test_gathered_tensors_lie_where_the_own_one_does(kind) -> None:
    with world_on(kind) as device:
        rank = allranks.get_rank()
        for count in (1, MANY):
            mine = torch.full((count, 1), float(rank), device=device)
            both = allranks.all_gather(mine)
            assert [is_at(t, device, [[float(i)]] * count) for i, t in enumerate(both)] == [
                True
            ] * 2
            rows = torch.full((count + rank,), rank, device=device)
            uneven = [0] * count + [1] * (count + 1)
            assert is_at(allranks.all_gather(rows, cat=True), device, uneven)
            told = allranks.gather(rows, dst=1)
            if rank == 1:
                assert is_at(told[0], device, [0] * count)
                assert is_at(told[1], device, [1] * (count + 1))
        moved = allranks.all_gather(torch.full((2,), rank), device=device)
        assert is_at(moved[1], device, [1, 1])


@TWO
def test_parts_are_reduced_or_exchanged(kind) -> None:
    with world_on(kind) as device:
        rank = allranks.get_rank()
        for count in (1, MANY):
            parts = [torch.full((count,), float(i), device=device) for i in range(2)]
            assert is_at(allranks.reduce_scatter(parts), device, [2.0 * rank] * count)
            assert is_at(allranks.reduce_scatter(parts, op="max"), device, [float(rank)] * count)
            assert is_at(allranks.reduce_scatter(torch.cat(parts)), device, [2.0 * rank] * count)
            for i, part in enumerate(allranks.all_to_all(parts)):
                assert is_at(part, device, [float(rank)] * count), i
            sent = [part.bfloat16()[: i + rank] for i, part in enumerate(parts)]
            got = allranks.all_to_all(sent)
            assert [len(part) for part in got] == [min(rank + i, count) for i in range(2)]
            assert {part.device for part in got} == {device}
        tensor = torch.full((2,), float(rank + 1), device=device)
        allranks.reduce(tensor, dst=1)
        assert rank == 0 or is_at(tensor, device, [3.0, 3.0])


@TWO
def test_objects_bring_their_tensors_to_the_cpu(kind) -> None:
    """A device of the sender's may be none of the receiver's."""
    with world_on(kind) as device:
        rank = allranks.get_rank()
        mine = {
            "t": torch.full((2,), rank, device=device),
            "p": nn.Parameter(torch.ones(1, device=device)),
        }
        for other, one in enumerate(allranks.all_gather_objects(mine)):
            where = device if other == rank else torch.device("cpu")
            assert is_at(one["t"], where, [other] * 2)
            assert (type(one["p"]), one["p"].device) == (nn.Parameter, where)
        got = allranks.broadcast_object(mine if rank == 0 else None)
        assert is_at(got["t"], torch.device("cpu") if rank else device, [0, 0])
        parts = [torch.full((MANY,), i, device=device) for i in range(2)] if rank == 0 else None
        assert allranks.scatter_objects(parts).tolist() == [rank] * MANY


@TWO
def test_a_message_arrives_on_a_device_of_the_same_type(kind) -> None:
    with world_on(kind) as device:
        if allranks.get_rank() == 0:
            allranks.send(torch.arange(MANY, device=device), 1)
        else:
            assert is_at(allranks.recv(0), device, list(range(MANY)))


@TWO
def test_gradients_flow_between_devices(kind) -> None:
    with world_on(kind) as device:
        rank = allranks.get_rank()
        weight = torch.full((2,), float(rank + 1), device=device, requires_grad=True)
        (allranks.autograd.all_reduce(weight) * (rank + 1)).sum().backward()
        assert is_at(weight.grad, device, [3.0, 3.0])
        weight.grad = None
        sum(t.sum() for t in allranks.autograd.all_gather(weight)).backward()
        assert is_at(weight.grad, device, [2.0, 2.0])


@TWO
def test_with_check_a_wrong_shape_is_named_on_all_ranks(kind) -> None:
    with world_on(kind, check=True) as device:
        mine = torch.ones(2 + allranks.get_rank(), device=device)
        with pytest.raises(MismatchError, match=r"torch.float32\[2\].*torch.float32\[3\]"):
            allranks.all_reduce(mine)
        assert is_at(allranks.all_reduce(torch.ones(2, device=device)), device, [2.0, 2.0])


@TWO
def test_a_model_is_compared_and_results_are_gathered(kind) -> None:
    with world_on(kind) as device:
        rank = allranks.get_rank()
        model = nn.Linear(2, 2).to(device)
        allranks.broadcast(model.state_dict(), 0)
        allranks.check_same(model)
        with torch.no_grad():
            model.bias.add_(rank)
        with pytest.raises(MismatchError, match="bias"):
            allranks.check_same(model)
        allranks.synchronize()
        shards = allranks.gather_shards(torch.full((1, 2), rank, device=device))
        assert is_at(shards, device, [[0, 0], [1, 1]])


@TWO
def test_no_other_device_is_touched(kind) -> None:
    """Each rank's memory is on its own device; on one GPU, that of all."""
    import stand_in

    with world_on(kind, devices=2) as device:
        rank = allranks.get_rank()
        assert allranks.all_reduce(torch.ones(MANY, device=device)).device == device
        allranks.all_gather_objects(torch.ones(2, device=device))
        allranks.synchronize()
        if kind == stand_in.KIND:
            assert (device.index, stand_in.used()) == (rank, [rank])
        else:
            assert torch.cuda.current_device() == device.index


@TWO
def test_a_thread_of_ours_has_the_device_of_its_rank(kind) -> None:
    """Each thread has a current device of its own, which begins with the first."""
    from allranks._system.accelerator import on_same_device

    with world_on(kind, devices=2) as device:
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(on_same_device(torch.accelerator.current_device_index))
        assert asked.result() == device.index
