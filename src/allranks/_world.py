"""Who this process is: ``detect(environ) -> World``, a pure function of the environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Launcher = Literal[
    "allranks",
    "torchrun",
    "openmpi",
    "mpich",
    "pmix",
    "flux",
    "pals",
    "lsf",
    "slurm",
    "ray",
    "kubernetes",
    "env",
    "single",
]


@dataclass(frozen=True)
class World:
    """One process's place among all processes of its job, as its launcher tells it.

    Attributes:
        launcher: what started this process.
        rank: this process's number in the job, from 0 to ``world_size - 1``.
        world_size: how many processes the job has.
        local_rank: this process's number on its host; None where the launcher does not say
            (``setup`` then counts the ranks that share a host).
        local_world_size: how many of the job's processes run on this host, or None.
        node_rank: this host's number in the job, or None.
        num_nodes: how many hosts the job has, or None.
        job: identifies the job: equal on all its ranks, different on other jobs' where the
            launcher gives anything to tell them apart.
        notes: sentences for people: what was ignored and why, what to do for more ranks.
        hosts: where rank 0 may run, likeliest first; empty where the launcher does not say.
        master_addr: the address that the environment gives for rank 0, or None.
        master_port: the port that the environment gives for rank 0, or None.
        agent_store: whether ``master_addr:master_port`` is a store that torchrun's agent keeps.
        attempt: how often the launcher restarted the job before this run.
        store_path: the file that ``allranks run`` made for its ranks to meet in, or None.
    """

    launcher: Launcher
    rank: int
    world_size: int
    local_rank: int | None = None
    local_world_size: int | None = None
    node_rank: int | None = None
    num_nodes: int | None = None
    job: str = ""
    notes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    attempt: int = 0
    store_path: str | None = None
