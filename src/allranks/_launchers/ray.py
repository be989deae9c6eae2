"""Ray Train's workers; plain actors and tasks are given no rank.

Before the launchers below, of any of which the raylet may be a task: Ray Train numbers its workers
in the worker. Recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")


def in_ray_worker(environ: Environ) -> bool:
    """Whether a raylet started this process: it sets these two for its workers."""
    return "RAY_JOB_ID" in environ and "RAY_RAYLET_PID" in environ


def read(environ: Environ) -> WorldFields | None:
    """Ray Train's workers; plain actors and tasks are given no rank."""
    if not in_ray_worker(environ) or not ("RANK" in environ or "WORLD_SIZE" in environ):
        return None
    here = place(environ, NAMES)
    # RAY_JOB_ID is no identity: workers that Ray started in advance keep the nil id, ffffffff.
    here["job"] = joined("ray", here["master_port"])
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return {**process.variables(NAMES), "RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": "4711"}


READER = Reader("ray", read, simulate, ("RAY_JOB_ID", *NAMES[:2]), prefixes=("RAY_", "NODE_RANK"))
