"""``World``: who a process is, as its launcher tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from allranks._launchers import job_ports
from allranks._system import sockets

Launcher = Literal[
    "allranks",
    "torchrun",
    "openmpi",
    "mvapich",
    "mpich",
    "pmix",
    "flux",
    "pals",
    "lsf",
    "slurm",
    "submitit",
    "ray",
    "horovod",
    "lws",
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
            launcher or the user (in ALLRANKS_JOB) gives anything to tell them apart.
        notes: sentences for people: what was ignored and why, what to do for more ranks.
        doubt: the note that says why the job may not have the ranks that are meant, or "".
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
    doubt: str = ""
    hosts: tuple[str, ...] = ()
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    attempt: int = 0
    store_path: str | None = None

    def environ(self, port_range: range | None = None) -> dict[str, str]:
        """The variables in which torchrun would tell other programs this place.

        Args:
            port_range: the ports of which MASTER_PORT may be one, where the launcher gives none;
                None for any.

        Returns:
            What is known of RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK and
            NODE_RANK, GROUP_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. A port that the launcher
            does not give follows from the job's identity, and is the same on all its ranks. The
            two about rank 0 are left out where nothing tells on which host it runs.
        """
        address = self._address_of_0()
        values = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
            "GROUP_RANK": self.node_rank,
            "NODE_RANK": self.node_rank,
            "GROUP_WORLD_SIZE": self.num_nodes,
            "MASTER_ADDR": address,
            "MASTER_PORT": self._port_of_0(port_range) if address else None,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    def _address_of_0(self) -> str | None:
        if self.master_addr:
            return self.master_addr
        if self.num_nodes == 1:
            return sockets.LOOPBACK
        return self.hosts[0] if len(self.hosts) == 1 else None

    def _port_of_0(self, port_range: range | None) -> int:
        if self.master_port:
            return self.master_port
        alone = self.world_size == 1  # Any two such jobs have the same identity.
        return sockets.free_port() if alone else job_ports.own(self.job, port_range)
