"""How the ranks of a world will meet: decided from facts alone, before any effect."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allranks._launchers.job_ports import candidates
from allranks._rendezvous.address_board import ADVICE
from allranks._rendezvous.init_method import parse
from allranks._system import sockets
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from allranks._launchers.world import World

MPI = ("openmpi", "mvapich", "mpich", "pmix", "pals", "lsf", "flux")
"""Launchers whose processes can call MPI."""


@dataclass(frozen=True)
class RendezvousPlan:
    """How the ranks will meet; exactly one way is set, in this order of precedence.

    Attributes:
        alone: a world of one: no meeting.
        private_file: the file that this rank's parent made for its ranks.
        agent: host, port and prefix of the store that torchrun's agent keeps, to be used as is.
        board: the file, or the host and port of the agent's store, where rank 0 posts the
            address of its own store.
        hosts: where rank 0 may host its store, likeliest first.
        ports: the ports at which it may, in order.
        ask_mpi: nothing tells where rank 0 runs, but MPI may: ask it, and plan again.
        port_range: the ports at which rank 0 may host it where it posts the address; None for any.
        one_host: whether all ranks are known to run on this host.
        near_first: whether they may: this rank's address for rank 0 is a loopback one, which proves
            nothing of the others'. Rank 0 listens on loopback first, and everywhere if some do not
            come.
    """

    alone: bool = False
    private_file: str | None = None
    agent: tuple[str, int, str] | None = None
    board: str | tuple[str, int, str] | None = None
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    ask_mpi: bool = False
    port_range: range | None = None
    one_host: bool = False
    near_first: bool = False


def plan(
    world: World,
    init_method: str | None = None,
    shared_file_dir: str | None = None,
    array_job_num: int | None = None,
    *,
    port_range: range | None = None,
    has_mpi4py: bool = False,
) -> RendezvousPlan:
    """Decide how the ranks will meet. Pure.

    Args:
        world: this process's world.
        init_method: "tcp", "file", "env", a URL, or None for whatever fits the launcher.
        shared_file_dir: a directory that all hosts share, or None.
        array_job_num: tells the jobs of an array apart in a shared directory.
        port_range: the only ports that may be listened on, or None.
        has_mpi4py: whether all ranks could import mpi4py.

    Raises:
        ConfigError: the settings do not say where to meet, and what to set.
    """
    if init_method is not None and "://" in init_method:
        return _plan_url(init_method, world, port_range)
    if init_method not in (None, "tcp", "file", "env"):
        raise ConfigError(f"init_method={init_method!r}: expected 'tcp', 'file', 'env' or a URL")
    if world.world_size == 1:
        return RendezvousPlan(alone=True)
    shared = shared_file_dir and _shared_path(world, shared_file_dir, array_job_num)
    if init_method == "file":
        if not shared:
            raise ConfigError("init_method='file' needs shared_file_dir, which all hosts share")
        return RendezvousPlan(board=shared, port_range=port_range, one_host=world.num_nodes == 1)
    if init_method == "env" and not (world.master_addr and world.master_port):
        raise ConfigError("init_method='env' needs MASTER_ADDR and MASTER_PORT, which are not set")
    if world.store_path and init_method is None:
        return RendezvousPlan(private_file=world.store_path, one_host=True)
    return _plan_tcp(world, shared, port_range, has_mpi4py=has_mpi4py)


def for_later_meeting(first: RendezvousPlan, earlier: int) -> RendezvousPlan:
    """The plan for a later setup() of this job, whose names are not those of earlier ones.

    Args:
        first: the plan for the first one.
        earlier: how many worlds this process has been in, the same on all ranks.
    """
    if not earlier:
        return first
    file = first.private_file and f"{first.private_file}.{earlier}"
    agent = first.agent and (*first.agent[:2], f"{first.agent[2]}/{earlier}")
    return replace(first, private_file=file, agent=agent)


def _plan_url(url: str, world: World, port_range: range | None) -> RendezvousPlan:
    """The file of a ``file://`` URL is where rank 0 posts its address."""
    url_parts = parse(url)
    one_host = world.num_nodes == 1
    if world.world_size == 1:
        return RendezvousPlan(alone=True)
    if url_parts.path is not None:
        return RendezvousPlan(board=url_parts.path, port_range=port_range, one_host=one_host)
    host, port = str(url_parts.host), int(url_parts.port or 0)
    near_first = sockets.is_loopback(host) and not one_host
    return RendezvousPlan(hosts=(host,), ports=(port,), one_host=one_host, near_first=near_first)


def _plan_tcp(
    world: World, shared: str | None, port_range: range | None, *, has_mpi4py: bool
) -> RendezvousPlan:
    one_host = world.num_nodes == 1
    prefix = f"allranks/{world.job}/{world.attempt if one_host else ''}"
    given = world.master_port
    if world.launcher == "torchrun" and not one_host and port_range and given not in port_range:
        given = None  # The kernel chose it for torchrun, and a firewall may let nobody there.
    if world.agent_store and world.master_addr and given:
        agent = (world.master_addr, given, prefix)
        if one_host:
            return RendezvousPlan(agent=agent, one_host=True)
        return RendezvousPlan(board=agent, port_range=port_range)
    ports = (given,) if given else candidates(world.job, port_range)
    hosts = (world.master_addr,) if world.master_addr else world.hosts
    if one_host:
        return RendezvousPlan(hosts=(sockets.LOOPBACK,), ports=ports, one_host=True)
    if hosts:
        return RendezvousPlan(hosts=hosts, ports=ports, near_first=sockets.is_loopback(hosts[0]))
    if shared:
        return RendezvousPlan(board=shared, port_range=port_range)
    if has_mpi4py and world.launcher in MPI:
        return RendezvousPlan(ask_mpi=True)
    raise ConfigError(
        f"launcher {world.launcher}, {world.world_size} ranks: nothing says where rank 0 runs, or "
        f"that all of them are on this host: {ADVICE}."
    )


def _shared_path(world: World, directory: str, array_job_num: int | None) -> str:
    # Two jobs of one name must not meet in a file; an address that is given keeps them apart.
    name = f"{world.job}/{world.master_addr}/{world.attempt}/{array_job_num}"
    return f"{directory}/.allranks-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
