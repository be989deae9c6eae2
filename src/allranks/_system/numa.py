"""Where the CPUs of this host stand: on which NUMA node, in which core, near which device.

Linux tells it in files (its pages sysfs-devices-node and sysfs-devices-system-cpu). Some hosts and
containers do not; then a CPU is on no node, and a core of its own.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.words import ranges

if TYPE_CHECKING:
    from collections.abc import Collection

SYS = Path("/sys")
"""The folder that the kernel fills."""


class Core(NamedTuple):
    """A core, as far as this process may use it.

    Attributes:
        node: its NUMA node; None where the system does not tell.
        cpus: its hardware threads, by the numbers of their CPUs.
    """

    node: int | None
    cpus: tuple[int, ...]


def cores(cpus: Collection[int]) -> list[Core]:
    """The cores of these CPUs, those of one node side by side.

    Args:
        cpus: those that may be used; a core may have others.
    """
    node_of = {cpu: node for node, there in nodes().items() for cpu in there}
    siblings: dict[int, list[int]] = {}
    for cpu in sorted(cpus):
        siblings.setdefault(_first_of_core(cpu), []).append(cpu)
    found = [Core(node_of.get(cpus[0]), tuple(cpus)) for cpus in siblings.values()]
    return sorted(found, key=lambda core: (-1 if core.node is None else core.node, core.cpus))


def described(cpus: Collection[int]) -> str:
    """These CPUs for people: ``0-7 on NUMA node 0``, ``0-15 on NUMA nodes 0-1``, or ``0-7``."""
    on = sorted({core.node for core in cores(cpus) if core.node is not None})
    return ranges(cpus) + (f" on NUMA node{'s' * (len(on) > 1)} {ranges(on)}" if on else "")


def nodes() -> dict[int, list[int]]:
    """The CPUs of each NUMA node that has some: others hold memory alone."""
    found = {}
    for folder in (SYS / "devices/system/node").glob("node[0-9]*"):
        with suppress(OSError, ValueError):
            if cpus := _listed((folder / "cpulist").read_text()):
                found[int(folder.name.removeprefix("node"))] = cpus
    return found


def node_of_pci(address: str) -> int | None:
    """The NUMA node of a PCI device; None where the system does not tell.

    Args:
        address: its name on the bus, as "0000:dc:00.0".
    """
    with suppress(OSError, ValueError):
        node = int((SYS / "bus/pci/devices" / address / "numa_node").read_text())
        return node if node >= 0 else _only_node()  # Hosts with one often say -1.
    return None


def _only_node() -> int | None:
    there = list(nodes())
    return there[0] if len(there) == 1 else None


def _first_of_core(cpu: int) -> int:
    """The first hardware thread of a CPU's core."""
    topology = SYS / f"devices/system/cpu/cpu{cpu}/topology"
    with suppress(OSError, ValueError, IndexError):
        return _listed((topology / "thread_siblings_list").read_text())[0]
    return cpu


def _listed(text: str) -> list[int]:
    """What the kernel writes as ``0-3,8``; nothing is an empty line."""
    ends = [one.partition("-") for one in text.strip().split(",") if one]
    return [cpu for low, _, high in ends for cpu in range(int(low), int(high or low) + 1)]
