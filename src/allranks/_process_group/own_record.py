"""This rank's device, and the record by which the others know it."""

from __future__ import annotations

import os
import platform
import socket
from typing import TYPE_CHECKING

from allranks._process_group import binding, devices
from allranks._process_group.init_group import backend_for
from allranks._rendezvous.record import RankRecord
from allranks._stragglers.asked import REPORT, asked
from allranks._system import processes, sockets
from allranks._system.accelerator import accelerator_type
from allranks._system.version import __version__
from allranks._transport.headers import checking
from allranks.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings


def assign_device(wanted: Settings, world: World) -> None:
    """Choose this rank's device, as the settings ask for it."""
    cpu = accelerator_type() is None if wanted.cpu is None else wanted.cpu
    devices.assign_device_for_local_rank(
        cpu, world.local_rank or 0, local_world_size=world.local_world_size
    )


def own_record(
    wanted: Settings, found: World, assign: Callable[[Settings, World], None] = assign_device
) -> RankRecord:
    """This rank's record; a device that cannot be had is told to all, in the roll call.

    Args:
        wanted: what was asked for.
        found: this process's world; the device is chosen where it has the local rank.
        assign: chooses the device.
    """
    error = None
    if found.local_rank is not None:
        try:
            assign(wanted, found)
        except DeviceError as cannot:
            if found.world_size == 1:
                raise
            error = str(cannot)
    assigned = found.local_rank is not None and error is None
    return RankRecord(
        rank=found.rank,
        world_size=found.world_size,
        job=found.job,
        launcher=found.launcher,
        host=socket.gethostname(),
        host_key=sockets.host_key(),
        pid=os.getpid(),
        pid_space=processes.pid_space(),
        device=devices.get_device_for_local_rank() if assigned else None,
        device_uuid=devices.uuid() if assigned else None,
        versions=_versions(),
        error=error,
        settings=_to_be_agreed(wanted, assigned=assigned),
        doubt=found.doubt,
        backend=backend_for(wanted, devices.get_device_type()).lower() if assigned else "",
        cpus=binding.usable_cpus(wanted),
        numa_node=devices.numa_node() if assigned and wanted.bind else None,
    )


def _to_be_agreed(wanted: Settings, *, assigned: bool) -> dict[str, str]:
    """The settings that must be equal on all ranks: otherwise they would wait for each other."""
    mode = checking()
    agreed = {"check": repr(mode if mode in (None, "lines") else True)}
    agreed[REPORT] = repr(asked())
    if wanted.distributed_backend:
        agreed["distributed_backend"] = repr(wanted.distributed_backend.lower())
    elif assigned:
        agreed["device"] = devices.get_device_type()  # The backend follows it.
    return agreed


def _versions() -> str:
    import torch

    return f"Python {platform.python_version()}, torch {torch.__version__}, allranks {__version__}"
