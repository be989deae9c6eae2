"""What a program may rely on: a call takes its place in the current stream, as torch's do."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import allranks
from gpus import needs_gpus, world_on

pytestmark = pytest.mark.gpu

ON_ONE = needs_gpus(1)
ON_TWO = needs_gpus(2)
ONE = pytest.mark.ranks(1, setup=False, timeout=300)
TWO = pytest.mark.ranks(2, setup=False, timeout=300)

LONG = 1_000_000_000
"""Cycles of a kernel that takes half a second at 2 GHz."""

MANY = 300_000


def busy() -> torch.cuda.Event:
    """Keep the current stream busy; gives what is past once it is idle."""
    torch.cuda._sleep(LONG)
    end = torch.cuda.Event()
    end.record()
    return end


def check_that_calls_return_at_once(**settings) -> None:
    """While a kernel still runs; once the same call has set up what it needs."""
    with world_on("cuda", None, **settings) as device:
        tensor = torch.ones(MANY, device=device)
        calls = {
            "all_reduce": lambda: allranks.all_reduce(tensor),
            "mean": lambda: allranks.all_reduce(tensor, op="mean"),
            "broadcast": lambda: allranks.broadcast(tensor, 0),
            "async broadcast": lambda: allranks.broadcast(tensor, 0, async_op=True).wait(),
        }
        for name, call in calls.items():
            call()
            torch.cuda.synchronize()
            end = busy()
            call()
            assert not end.query(), f"{name} has waited for the device"
            torch.cuda.synchronize()


@ON_ONE
@ONE
def test_no_call_on_a_bare_tensor_waits_for_the_device() -> None:
    check_that_calls_return_at_once()


@ON_ONE
@ONE
def test_with_check_neither() -> None:
    """The words of a call go past the device."""
    check_that_calls_return_at_once(check=True)


@ON_TWO
@TWO
def test_no_call_waits_for_the_device_of_two() -> None:
    check_that_calls_return_at_once()


def check_the_order_of_streams(backend: str | None) -> None:
    """A late writer before a call, and a reader on another stream after it."""
    with world_on("cuda", backend) as device:
        rank, size = allranks.get_rank(), allranks.get_world_size()
        total = float(sum(range(1, size + 1)))
        tensor = torch.zeros(MANY, device=device)
        allranks.all_reduce(tensor)
        torch.cuda.synchronize()
        side, other = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(side):
            busy()
            tensor.fill_(rank + 1)
            allranks.all_reduce(tensor)
            gathered = allranks.all_gather(tensor)
            tree = allranks.all_reduce({"a": tensor, "b": 1})
        other.wait_stream(side)
        with torch.cuda.stream(other):
            doubled = [tensor * 2, gathered[-1] * 2, tree["a"] * 2]
        torch.cuda.synchronize()
        seen = [set(one.tolist()) for one in doubled]
        assert seen == [{total * 2}, {total * 2}, {total * size * 2}]


@ON_ONE
@ONE
@pytest.mark.parametrize("backend", [None, "gloo"])
def test_a_call_takes_its_place_in_a_side_stream(backend) -> None:
    check_the_order_of_streams(backend)


@ON_TWO
@TWO
@pytest.mark.parametrize("backend", [None, "gloo"])
def test_a_call_of_two_takes_its_place_in_a_side_stream(backend) -> None:
    check_the_order_of_streams(backend)


def check_that_a_graph_holds_the_call() -> None:
    """A CUDA graph captures it; each replay makes it again."""
    with world_on("cuda", None) as device:
        size = allranks.get_world_size()
        data = torch.ones(MANY, device=device)
        result = torch.empty_like(data)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # What is made at the first call cannot be captured.
            allranks.all_reduce(data.clone())
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            doubled = data * 2
            allranks.all_reduce(doubled)
            result.copy_(doubled + 1)
        for value in (1.0, 5.0):
            data.fill_(value)
            graph.replay()
            torch.cuda.synchronize()
            assert set(result.tolist()) == {value * 2 * size + 1}
        allranks.synchronize()
        del graph


@ON_ONE
@ONE
def test_a_graph_captures_a_call() -> None:
    check_that_a_graph_holds_the_call()


@ON_TWO
@TWO
def test_a_graph_captures_a_call_of_two() -> None:
    check_that_a_graph_holds_the_call()


@ON_ONE
@ONE
def test_torch_s_handle_orders_the_current_stream() -> None:
    """As NCCL's do: wait() is for the stream, not for the program."""
    with world_on("cuda", None) as device:
        tensor = torch.full((MANY,), 3.0, device=device)
        work = allranks.broadcast(tensor, 0, async_op=True)
        assert isinstance(work, dist.Work)
        work.wait()
        assert set((tensor + 1).tolist()) == {4.0}
