"""allranks: the ``dist_utils.py`` of every PyTorch training repository, done once.

``setup()`` brings the process group up under any launcher; the collectives cannot lie; errors
name the rank. Importing this package imports no torch: the functions do, when they are called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from allranks import autograd, errors, meters
    from allranks._collectives.all_reduce import all_reduce, reduce
    from allranks._collectives.all_to_all import all_to_all
    from allranks._collectives.broadcast import broadcast
    from allranks._collectives.objects import (
        T,
        all_gather_objects,
        broadcast_object,
        broadcast_object_list,
        gather_objects,
        scatter_objects,
    )
    from allranks._collectives.point_to_point import recv, send
    from allranks._collectives.split import split
    from allranks._collectives.tensors import all_gather, reduce_scatter, synchronize
    from allranks._collectives.to_one_rank import gather
    from allranks._launch.launch import launch
    from allranks._launchers.detect import detect
    from allranks._launchers.job_ports import DISTRIBUTED_PORT
    from allranks._launchers.world import World
    from allranks._process_group.devices import (
        CURRENT_DEVICE_TYPE_STR,
        assign_device_for_local_rank,
        get_device_for_local_rank,
        get_device_type,
    )
    from allranks._process_group.environment import (
        os_environ_get_or_throw,
        setup_env_local,
        setup_env_local_multi_gpu,
    )
    from allranks._process_group.host_groups import leaders_group, node_group
    from allranks._process_group.lifecycle import cleanup, initialized, session, setup, world
    from allranks._process_group.mesh import mesh
    from allranks._process_group.printing import print_on_master
    from allranks._process_group.ranks import (
        get_dist_info,
        get_local_rank,
        get_local_world_size,
        get_node_rank,
        get_num_nodes,
        get_rank,
        get_world_size,
        is_master,
        master_only,
    )
    from allranks._process_group.together import agree, master_first, on_master, should_stop
    from allranks._rendezvous.init_method import get_init_method
    from allranks._stragglers.stragglers import stragglers
    from allranks._system.version import __version__
    from allranks._training.check_same import check_same
    from allranks._training.gather_shards import gather_shards
    from allranks._training.logs import RankFilter, get_logger
    from allranks._training.modules import average_buffers, sync_module
    from allranks._training.rng_state import get_rng_state, set_rng_state
    from allranks._training.saving import save
    from allranks._training.seeds import seed_all, shared_seed, worker_init_fn
    from allranks._training.shard_sampler import ShardSampler
    from allranks._training.shards import shard

_NAMES = {
    "_collectives.all_reduce": "all_reduce reduce",
    "_collectives.all_to_all": "all_to_all",
    "_collectives.broadcast": "broadcast",
    "_collectives.point_to_point": "recv send",
    "_collectives.split": "split",
    "_collectives.objects": (
        "T all_gather_objects broadcast_object broadcast_object_list gather_objects scatter_objects"
    ),
    "_collectives.tensors": "all_gather reduce_scatter synchronize",
    "_collectives.to_one_rank": "gather",
    "_launch.launch": "launch",
    "_launchers.detect": "detect",
    "_launchers.job_ports": "DISTRIBUTED_PORT",
    "_launchers.world": "World",
    "_process_group.devices": (
        "CURRENT_DEVICE_TYPE_STR assign_device_for_local_rank get_device_for_local_rank "
        "get_device_type"
    ),
    "_process_group.environment": (
        "os_environ_get_or_throw setup_env_local setup_env_local_multi_gpu"
    ),
    "_process_group.host_groups": "leaders_group node_group",
    "_process_group.lifecycle": "cleanup initialized session setup world",
    "_process_group.mesh": "mesh",
    "_process_group.printing": "print_on_master",
    "_process_group.ranks": (
        "get_dist_info get_local_rank get_local_world_size get_node_rank get_num_nodes get_rank "
        "get_world_size is_master master_only"
    ),
    "_process_group.together": "agree master_first on_master should_stop",
    "_rendezvous.init_method": "get_init_method",
    "_stragglers.stragglers": "stragglers",
    "_system.version": "__version__",
    "_training.check_same": "check_same",
    "_training.gather_shards": "gather_shards",
    "_training.logs": "RankFilter get_logger",
    "_training.modules": "average_buffers sync_module",
    "_training.rng_state": "get_rng_state set_rng_state",
    "_training.saving": "save",
    "_training.seeds": "seed_all shared_seed worker_init_fn",
    "_training.shard_sampler": "ShardSampler",
    "_training.shards": "shard",
}
"""Each module, and the names that the root takes from it when they are first asked for."""

_MODULES = ("autograd", "errors", "meters")
"""The modules that can be had from the root; ``autograd`` imports torch."""

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"allranks.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'allranks' has no attribute {name!r}")
    found = getattr(import_module(f"allranks.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]


__all__ = [
    "CURRENT_DEVICE_TYPE_STR",
    "DISTRIBUTED_PORT",
    "RankFilter",
    "ShardSampler",
    "T",
    "World",
    "__version__",
    "agree",
    "all_gather",
    "all_gather_objects",
    "all_reduce",
    "all_to_all",
    "assign_device_for_local_rank",
    "autograd",
    "average_buffers",
    "broadcast",
    "broadcast_object",
    "broadcast_object_list",
    "check_same",
    "cleanup",
    "detect",
    "errors",
    "gather",
    "gather_objects",
    "gather_shards",
    "get_device_for_local_rank",
    "get_device_type",
    "get_dist_info",
    "get_init_method",
    "get_local_rank",
    "get_local_world_size",
    "get_logger",
    "get_node_rank",
    "get_num_nodes",
    "get_rank",
    "get_rng_state",
    "get_world_size",
    "initialized",
    "is_master",
    "launch",
    "leaders_group",
    "master_first",
    "master_only",
    "mesh",
    "meters",
    "node_group",
    "on_master",
    "os_environ_get_or_throw",
    "print_on_master",
    "recv",
    "reduce",
    "reduce_scatter",
    "save",
    "scatter_objects",
    "seed_all",
    "send",
    "session",
    "set_rng_state",
    "setup",
    "setup_env_local",
    "setup_env_local_multi_gpu",
    "shard",
    "shared_seed",
    "should_stop",
    "split",
    "stragglers",
    "sync_module",
    "synchronize",
    "worker_init_fn",
    "world",
]
