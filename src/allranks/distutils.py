"""The published API page's module: 18 functions and 3 names, the same objects as the root's.

Beside them ``cleanup_gp_ray``, which the page does not have yet.

``from allranks import distutils`` is all that a repository needs to replace its own copy;
``docs/compatibility.md`` lists the deliberate differences.
"""

from __future__ import annotations

import sys
from typing import Any

from allranks import (
    CURRENT_DEVICE_TYPE_STR,
    DISTRIBUTED_PORT,
    T,
    all_gather,
    all_reduce,
    assign_device_for_local_rank,
    broadcast,
    broadcast_object_list,
    cleanup,
    gather_objects,
    get_device_for_local_rank,
    get_init_method,
    get_rank,
    get_world_size,
    initialized,
    is_master,
    os_environ_get_or_throw,
    setup,
    setup_env_local,
    setup_env_local_multi_gpu,
    synchronize,
)

__all__ = [
    "CURRENT_DEVICE_TYPE_STR",
    "DISTRIBUTED_PORT",
    "T",
    "all_gather",
    "all_reduce",
    "assign_device_for_local_rank",
    "broadcast",
    "broadcast_object_list",
    "cleanup",
    "cleanup_gp_ray",
    "gather_objects",
    "get_device_for_local_rank",
    "get_init_method",
    "get_rank",
    "get_world_size",
    "initialized",
    "is_master",
    "os_environ_get_or_throw",
    "setup",
    "setup_env_local",
    "setup_env_local_multi_gpu",
    "synchronize",
]


def cleanup_gp_ray() -> None:
    """Shut Ray down where this process has started it, and then ``cleanup``. Not collective.

    Groups of graph parallelism go with the process group, as all others do.
    """
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
    cleanup()
