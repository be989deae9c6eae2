"""Under torch.compile our calls break the graph, as torch's own do, and are right."""

from __future__ import annotations

import inspect
import os
import shutil

import pytest
import torch

import allranks
from allranks._system import graph_breaks, stacks
from harness import PATIENCE


def in_turn(x):
    with allranks.master_first():
        z = x * 3
        return z + allranks.get_rank() * 0


def in_a_session(x):
    with allranks.session(cpu=True) as world:
        return x * world.world_size


def in_place(_):
    items = [allranks.get_rank(), 7]
    allranks.broadcast_object_list(items, 1)
    return items


LAYER = torch.nn.BatchNorm1d(2)


def one_way(_):
    return allranks.send("x", 1) if allranks.get_rank() == 0 else allranks.recv(0)


CALLS = {
    "send and recv": one_way,
    "reduce": lambda _: allranks.reduce(1.5, 1),
    "gather": lambda _: allranks.gather("x", 1),
    "all_to_all": lambda _: allranks.all_to_all([1, 2]),
    "broadcast of a tree": lambda _: allranks.broadcast({"a": 1}, 0)["a"],
    "check_same": lambda _: allranks.check_same(1),
    "stragglers": lambda _: allranks.stragglers().calls > 0,
    "sync_module": lambda _: allranks.sync_module(LAYER),
    "average_buffers": lambda _: allranks.average_buffers(LAYER),
    "shards": lambda _: allranks.gather_shards(list(allranks.shard(5))),
    "get_dist_info": lambda _: allranks.get_dist_info(),
    "get_rng_state": lambda _: sorted(allranks.get_rng_state()),
    "shared_seed": lambda _: allranks.shared_seed() >= 0,
    "master_first": in_turn,
    "broadcast_object_list": in_place,
    "should_stop": lambda _: allranks.should_stop(),
    "leaders_group": lambda _: allranks.leaders_group() is None,
    "all_reduce": lambda x: allranks.all_reduce(x.clone())[0].item(),
    "a number": lambda _: allranks.all_reduce(1.5),
    "a tree": lambda x: allranks.all_reduce({"a": x, "b": [1]})["b"][0],
    "all_gather": lambda x: len(allranks.all_gather(x)),
    "broadcast": lambda x: allranks.broadcast(x.clone(), 0),
    "reduce_scatter": lambda x: allranks.reduce_scatter(x).shape[0],
    "synchronize": lambda _: allranks.synchronize(),
    "gather_objects": lambda _: allranks.gather_objects("x") is not None,
    "all_gather_objects": lambda _: allranks.all_gather_objects("x"),
    "broadcast_object": lambda _: allranks.broadcast_object("x"),
    "scatter_objects": lambda _: allranks.scatter_objects(["a", "a"]),
    "agree": lambda _: allranks.agree(True),
    "on_master": lambda _: allranks.on_master(lambda: 3),
    "split": lambda _: allranks.all_reduce(1, allranks.split(0)),
    "node_group": lambda _: allranks.all_reduce(1, allranks.node_group()),
    "ranks": lambda _: (allranks.get_rank() >= 0, allranks.get_world_size(), allranks.is_master()),
    "local ranks": lambda _: (allranks.get_local_rank(), allranks.get_local_world_size()),
    "nodes": lambda _: (allranks.get_node_rank(), allranks.get_num_nodes()),
    "world": lambda _: (allranks.world().world_size, allranks.initialized()),
    "detect": lambda _: allranks.detect(os.environ).world_size,
    "device": lambda _: (allranks.get_device_for_local_rank(), allranks.get_device_type()),
    "os_environ_get_or_throw": lambda _: allranks.os_environ_get_or_throw("ALLRANKS_RANK"),
}
BEFORE_ALL = {
    "assign_device_for_local_rank",
    "cleanup",
    "get_init_method",
    "get_logger",
    "launch",
    "master_only",
    "mesh",
    "print_on_master",
    "save",
    "seed_all",
    "set_rng_state",
    "setup",
    "setup_env_local",
    "setup_env_local_multi_gpu",
    "worker_init_fn",
}
"""What a program does before and after all steps, which is all that is compiled."""

compiling = pytest.mark.filterwarnings(  # The compiler's own.
    "ignore::DeprecationWarning", "ignore:Skipping serialization of:UserWarning"
)

SKIPS_FRAMES = torch.__version__ >= "2.8"
"""Whether the compiler can be told to leave our frames alone; before, that ended the process."""

WORDS = "talks to other ranks" if SKIPS_FRAMES else "function <function all_reduce"
"""How the compiler says why it breaks a graph."""

COMPILERS = ["eager", *(["inductor"] if shutil.which("g++") else [])]


def public_calls() -> list[str]:
    return [name for name in allranks.__all__ if inspect.isfunction(getattr(allranks, name))]


def test_every_public_call_is_made_here() -> None:
    made = {name for call in (*CALLS.values(), in_a_session) for name in call.__code__.co_names}
    assert set(public_calls()) - made == BEFORE_ALL


@pytest.mark.parametrize("name", public_calls())
def test_every_public_call_breaks_the_graph(name: str) -> None:
    """What is traced instead is our own inside, which sends messages."""
    assert getattr(allranks, name)._torchdynamo_disable


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def check_compiled(name: str, call, backend: str) -> None:
    """Compiled, a call gives what it gives without."""

    def step(x):
        y = x * 2
        return call(y), y + 1

    expected = step(torch.ones(4))
    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend)
    for _ in range(2):
        result, tensor = compiled(torch.ones(4))
        assert same(result, expected[0]), name
        assert torch.equal(tensor, expected[1]), name


@compiling
@pytest.mark.ranks(2, timeout=PATIENCE)
@pytest.mark.parametrize("backend", COMPILERS)
def test_a_compiled_function_may_make_every_call(world, backend: str) -> None:
    for name, call in CALLS.items():
        check_compiled(name, call, backend)


@compiling
@pytest.mark.ranks(2, timeout=PATIENCE, setup=False)
@pytest.mark.parametrize("backend", COMPILERS)
def test_a_compiled_function_may_hold_a_session(backend: str) -> None:
    check_compiled("session", in_a_session, backend)
    with allranks.session(cpu=True):
        check_compiled("session within another", in_a_session, backend)


@pytest.mark.ranks(2, timeout=PATIENCE)
def test_one_graph_cannot_hold_a_call_and_says_so(world) -> None:
    whole = torch.compile(lambda x: allranks.all_reduce(x * 2), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=WORDS):
        whole(torch.ones(2))


@pytest.mark.ranks(1, timeout=PATIENCE)
def test_the_line_of_a_call_is_the_programs(world) -> None:
    import torch._dynamo  # noqa: F401 - from now on calls go through it

    seen = []
    allranks.on_master(lambda: seen.append(stacks.caller()))
    assert seen[0].file == __file__


@pytest.mark.skipif(not SKIPS_FRAMES, reason="this torch looks into each call")
@pytest.mark.ranks(1, timeout=PATIENCE)
def test_outside_of_compiled_functions_a_call_goes_straight(world, monkeypatch) -> None:
    def step(x):
        return x * 2, allranks.get_rank()

    compiled = torch.compile(step, backend="eager")
    assert compiled(torch.ones(2))[1] == 0
    function = allranks.get_rank.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setitem(graph_breaks._disabled, function, lambda: "through the compiler's wrapper")
    assert allranks.get_rank() == 0
    assert compiled(torch.ones(2))[1] == "through the compiler's wrapper"


def test_a_call_still_tells_its_signature() -> None:
    assert list(inspect.signature(allranks.all_reduce).parameters)[:2] == ["data", "group"]
    assert "Collective." in (allranks.all_reduce.__doc__ or "")
