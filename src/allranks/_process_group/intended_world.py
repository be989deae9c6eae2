"""What settings and environment say together: the world, and how its ranks will meet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allranks._launchers.detect import detect
from allranks._rendezvous import mpi, ports
from allranks._rendezvous.plan import MPI, RendezvousPlan, plan
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings


def detected(wanted: Settings) -> World:
    """The detected world, with what the settings add and where they do not contradict it."""
    ignored = ("slurm",) if wanted.submit is False else ()
    completed = _with_given_ranks(os.environ, wanted)
    if wanted.rank is not None and "WORLD_SIZE" not in completed:
        raise ConfigError(f"rank={wanted.rank} needs world_size beside it")
    found = detect(completed, ignore=ignored)
    if wanted.submit and found.launcher != "slurm":
        raise ConfigError(
            f"submit=True, but this process is not a task of a Slurm step (launcher: "
            f"{found.launcher}). Start it with srun, or leave submit out."
        )
    for name, asked in (("world_size", wanted.world_size), ("rank", wanted.rank)):
        if asked is not None and asked != getattr(found, name):
            raise ConfigError(_contradiction(name, asked, found))
    return found


def _with_given_ranks(environ: Mapping[str, str], wanted: Settings) -> dict[str, str]:
    """The environment, completed by the rank and world size that the settings carry."""
    rank, world_size = wanted.rank, wanted.world_size
    if wanted.init_method and "://" in wanted.init_method:
        from allranks._rendezvous.init_method import parse

        url = parse(wanted.init_method)
        rank = url.rank if rank is None else rank
        world_size = url.world_size if world_size is None else world_size
    completed = dict(environ)
    if rank is not None:
        completed.setdefault("RANK", str(rank))
    if world_size is not None and "RANK" in completed:
        completed.setdefault("WORLD_SIZE", str(world_size))
    return completed


def _contradiction(name: str, asked: int, found: World) -> str:
    source = "the environment" if found.launcher == "single" else found.launcher
    said = f"{name}={asked} was asked for, but {source} says {getattr(found, name)}"
    if found.launcher == "single":
        return (
            f"{said}: nothing started this process as one of several. Start the script with "
            f"`allranks run -n {asked}`, torchrun, srun or mpirun."
        )
    return f"{said}. Start it with the right number of ranks, or leave {name} out."


def planned(wanted: Settings, found: World) -> RendezvousPlan:
    """How the ranks will meet."""
    return plan(
        found,
        wanted.init_method,
        wanted.shared_file_dir,
        wanted.array_job_num,
        port_range=ports.allowed(os.environ),
        has_mpi4py=found.launcher in MPI and mpi.has_mpi4py(),
    )
