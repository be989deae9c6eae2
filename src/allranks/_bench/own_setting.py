"""Where a run is made: the device of this rank, and what all ranks tell of their places."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from allranks._bench.results import Setting
from allranks._collectives.objects import all_gather_objects
from allranks._process_group.devices import get_device_for_local_rank
from allranks._system.version import __version__
from allranks._watch import torch_groups

if TYPE_CHECKING:
    import torch

    from allranks._launchers.world import World


def own_device() -> torch.device:
    """This rank's device, where the group can move its tensors; else the CPU."""
    import torch

    device = torch.device(get_device_for_local_rank())
    moves_there = device.type in torch_groups.backends(torch_groups.world())
    return device if moves_there else torch.device("cpu")


def setting_of(world: World, device: torch.device) -> Setting:
    """Where this run is made. Collective.

    Args:
        world: this rank's, after ``setup``.
        device: this rank's.
    """
    import torch

    places = all_gather_objects((socket.gethostname(), world.node_rank or 0))
    return Setting(
        allranks=__version__,
        torch=str(torch.__version__),
        launcher=world.launcher,
        backend=torch_groups.backends(torch_groups.world())[device.type],
        device=device.type,
        hosts=tuple(host for host, _ in places),
        nodes=tuple(node for _, node in places),
    )
