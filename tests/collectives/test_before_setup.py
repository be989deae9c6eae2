"""Under a launcher of several ranks every call that needs the others says to call setup() first."""

from __future__ import annotations

import pytest
import torch

import allranks
from allranks import autograd
from allranks.errors import CollectiveError
from allranks.meters import MetricLogger, SmoothedValue

TENSOR = torch.ones(2)

CALLS = {
    "agree": lambda: allranks.agree(True),
    "all_gather": lambda: allranks.all_gather(TENSOR),
    "all_gather_objects": lambda: allranks.all_gather_objects(1),
    "all_reduce": lambda: allranks.all_reduce(TENSOR),
    "all_to_all": lambda: allranks.all_to_all([TENSOR, TENSOR]),
    "average_buffers": lambda: allranks.average_buffers(torch.nn.BatchNorm1d(2)),
    "broadcast": lambda: allranks.broadcast(TENSOR, 0),
    "broadcast_object": lambda: allranks.broadcast_object(1, 0),
    "broadcast_object_list": lambda: allranks.broadcast_object_list([1], 0),
    "check_same": lambda: allranks.check_same(1),
    "gather": lambda: allranks.gather(TENSOR, 0),
    "gather_objects": lambda: allranks.gather_objects(1),
    "gather_shards": lambda: allranks.gather_shards([1]),
    "leaders_group": allranks.leaders_group,
    "master_first": lambda: allranks.master_first().__enter__(),
    "mesh": lambda: allranks.mesh({"dp": -1}),
    "node_group": allranks.node_group,
    "on_master": lambda: allranks.on_master(int),
    "recv": lambda: allranks.recv(1),
    "reduce": lambda: allranks.reduce(TENSOR, 0),
    "reduce_scatter": lambda: allranks.reduce_scatter(TENSOR),
    "save": lambda: allranks.save(1, "/nonexistent/model.pt"),
    "scatter_objects": lambda: allranks.scatter_objects([1, 2], 0),
    "send": lambda: allranks.send(TENSOR, 1),
    "shared_seed": allranks.shared_seed,
    "should_stop": allranks.should_stop,
    "split": lambda: allranks.split(0),
    "stragglers": allranks.stragglers,
    "sync_module": lambda: allranks.sync_module(torch.nn.Linear(2, 2)),
    "synchronize": allranks.synchronize,
}

OTHERS = {
    "all_reduce of a number": lambda: allranks.all_reduce(1.0),
    "all_reduce of a tree": lambda: allranks.all_reduce({"a": 1}),
    "broadcast of a tree": lambda: allranks.broadcast({"a": TENSOR}, 0),
    "sync_module without tensors": lambda: allranks.sync_module(torch.nn.ReLU()),
    "average_buffers without any": lambda: allranks.average_buffers(torch.nn.ReLU()),
    "autograd.all_gather": lambda: autograd.all_gather(TENSOR),
    "autograd.all_reduce": lambda: autograd.all_reduce(TENSOR),
    "autograd.all_to_all": lambda: autograd.all_to_all(TENSOR),
    "autograd.broadcast": lambda: autograd.broadcast(TENSOR, 0),
    "autograd.reduce_scatter": lambda: autograd.reduce_scatter(TENSOR),
    "SmoothedValue": lambda: SmoothedValue().synchronize_between_processes(),
    "MetricLogger": lambda: MetricLogger().synchronize_between_processes(),
}

WORKS_ALONE = {
    *("CURRENT_DEVICE_TYPE_STR", "DISTRIBUTED_PORT", "RankFilter", "ShardSampler", "T", "World"),
    *("__version__", "assign_device_for_local_rank", "autograd", "cleanup", "detect", "errors"),
    *("get_device_for_local_rank", "get_device_type", "get_dist_info", "get_init_method"),
    *("get_local_rank", "get_local_world_size", "get_logger", "get_node_rank", "get_num_nodes"),
    *("get_rank", "get_rng_state", "get_world_size", "initialized", "is_master", "launch"),
    *("master_only", "meters", "os_environ_get_or_throw", "print_on_master", "seed_all"),
    *("session", "set_rng_state", "setup", "setup_env_local", "setup_env_local_multi_gpu"),
    *("shard", "worker_init_fn", "world"),
}
"""What needs nobody else, or brings the group up itself."""


@pytest.mark.parametrize("call", [*CALLS.values(), *OTHERS.values()], ids=[*CALLS, *OTHERS])
def test_a_call_before_setup(monkeypatch, call) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    told = r"^[\w.]+.*: no process group is up on rank 1 of 2 \(started by env\)\. "
    with pytest.raises(CollectiveError, match=f"{told}Call allranks.setup\\(\\) first\\.$"):
        call()


def test_no_public_call_is_forgotten_here() -> None:
    assert {*CALLS} == {*allranks.__all__} - WORKS_ALONE


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("autograd")])
def test_a_call_of_autograd_names_itself(monkeypatch, name: str) -> None:
    for variable, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(CollectiveError, match=rf"^{name}\b"):
        OTHERS[name]()
