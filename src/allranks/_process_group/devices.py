"""Which device this rank uses.

The environment variable ``CURRENT_DEVICE_TYPE_STR`` names is the one owner of the device type:
other code may write it, and it is believed. The index stays with torch's current device, or,
before CUDA is initialised, with what this module chose.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

from allranks._process_group import environment
from allranks._system import numa
from allranks._system.accelerator import accelerator_type, pci_address, visible_devices
from allranks._system.graph_breaks import outside_graphs
from allranks.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

CURRENT_DEVICE_TYPE_STR = "CURRRENT_DEVICE_TYPE"
"""The variable that holds the device type; three Rs, as published."""

_chosen: dict[str, int] = {}


def choose_index(kind: str, local_rank: int, local_world_size: int | None = None) -> int:
    """The device index for a rank: 0 where it sees one device only, else its local rank.

    Raises:
        DeviceError: fewer devices are visible than ranks need.
    """
    visible = visible_devices(kind)
    if visible == 1:
        return 0
    ranks = max(local_world_size or 0, local_rank + 1)
    if ranks > visible:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise DeviceError(
            f"{ranks} ranks on this host, but {visible} {kind} devices visible "
            f"(CUDA_VISIBLE_DEVICES={shown!r}). Start fewer ranks, or show each rank its device."
        )
    return local_rank


@outside_graphs
def assign_device_for_local_rank(
    cpu: bool, local_rank: int, *, local_world_size: int | None = None
) -> None:
    """Choose this rank's device and make it torch's current one. Not collective.

    Args:
        cpu: use the CPU even where there is an accelerator.
        local_rank: this process's number on its host.
        local_world_size: the number of ranks on this host, where it is known.

    Raises:
        DeviceError: no accelerator is visible, or fewer devices than ranks.
    """
    kind = "cpu" if cpu else accelerator_type()
    if kind is None:
        raise DeviceError(
            "cpu=False, but no accelerator is visible to this process "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}). "
            "Use cpu=True, or leave cpu out to use whatever is there."
        )
    if kind != "cpu":
        _choose(kind, choose_index(kind, local_rank, local_world_size))
    environment.put(CURRENT_DEVICE_TYPE_STR, kind)


def keep_chosen(bound: torch.device | None = None) -> bool:
    """Use the device that other code has chosen, if it has: the first is current by itself.

    Args:
        bound: the device of the process group, where it has one.

    Returns:
        Whether there is such a device.
    """
    kind = accelerator_type()
    if kind is None:
        return False
    index = bound.index if bound is not None and bound.type == kind else None
    if index is None:
        index = _index(kind) or None
    if index is None:
        return False
    _choose(kind, index)
    environment.put(CURRENT_DEVICE_TYPE_STR, kind)
    return True


def _choose(kind: str, index: int) -> None:
    """Make a device torch's current one, and remember it once it is."""
    import torch

    if kind == "cuda":
        torch.cuda.set_device(index)
    elif kind != "mps":  # mps has one device, which is always current
        torch.accelerator.set_device_index(index)
    _chosen[kind] = index


@outside_graphs
def get_device_for_local_rank() -> str:
    """This rank's device: ``cpu``, ``cuda:1``, ``xpu:0`` or ``mps``. Not collective.

    The device type is what ``assign_device_for_local_rank`` or ``setup`` chose, or what other
    code wrote to the variable; where nobody did, the accelerator that is visible, else the CPU.
    Asking changes nothing and initialises no device.

    Raises:
        ConfigError: (a ValueError) the variable holds no device type.
        DeviceError: the variable names an accelerator that is not visible.
    """
    text = os.environ.get(CURRENT_DEVICE_TYPE_STR)
    kind = (text.partition(":")[0] if text else accelerator_type()) or "cpu"
    if kind in {"cpu", "mps"}:
        return kind
    if kind not in ("cuda", "xpu", "hpu", "npu"):
        raise ConfigError(
            f"{CURRENT_DEVICE_TYPE_STR}={text!r} is no device type; expected cpu, cuda, xpu or mps"
        )
    if kind != accelerator_type():
        raise DeviceError(f"{CURRENT_DEVICE_TYPE_STR}={text!r}, but no {kind} device is visible")
    return f"{kind}:{_index(kind)}"


@outside_graphs
def get_device_type() -> str:
    """This rank's device type, for ``init_device_mesh`` and ``torch.autocast``. Not collective."""
    return get_device_for_local_rank().partition(":")[0]


def device() -> torch.device:
    """This rank's device, as torch's type. Not collective."""
    import torch

    return torch.device(get_device_for_local_rank())


def _index(kind: str) -> int:
    import torch

    if kind != "cuda":
        return torch.accelerator.current_device_index()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.current_device()
    return _chosen.get(kind, 0)


def uuid() -> str | None:
    """The identity of this rank's CUDA device, or None on another kind of device."""
    import torch

    if get_device_type() != "cuda":
        return None
    return str(getattr(torch.cuda.get_device_properties(_index("cuda")), "uuid", None))


def numa_node() -> int | None:
    """The NUMA node of this rank's device; None of the CPU, and where the system does not tell."""
    kind = get_device_type()
    return None if kind in ("cpu", "mps") else numa_node_of(kind, _index(kind))


def numa_node_of(kind: str, index: int) -> int | None:
    """The NUMA node of a device that this process sees; torch tells it of CUDA devices alone."""
    address = pci_address(index) if kind == "cuda" else None
    return numa.node_of_pci(address) if address else None


def forget() -> None:
    """Forget what was chosen, as the reference's callers expect of ``cleanup``."""
    _chosen.clear()
    os.environ.pop(CURRENT_DEVICE_TYPE_STR, None)
