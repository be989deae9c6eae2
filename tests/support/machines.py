"""Folders such as Linux's /sys, laid out as on machines that are not here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What its kernel tells.

    Attributes:
        nodes: the list of CPUs of each NUMA node, as its file has it.
        siblings: the list of hardware threads of the core of each CPU.
        gpus: the NUMA node that the file of each PCI device names.
    """

    nodes: dict[int, str] = field(default_factory=dict)
    siblings: dict[int, str] = field(default_factory=dict)
    gpus: dict[str, int] = field(default_factory=dict)

    def written(self, root: Path) -> Path:
        """A folder like /sys that tells it."""
        (root / "devices/system/node").mkdir(parents=True)
        for node, cpus in self.nodes.items():
            _write(root / f"devices/system/node/node{node}/cpulist", cpus)
        for cpu, threads in self.siblings.items():
            _write(
                root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
                threads,
            )
        for address, node in self.gpus.items():
            _write(root / f"bus/pci/devices/{address}/numa_node", str(node))
        return root


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(f"{text}\n")


def threads(cores: int) -> dict[int, str]:
    """The siblings of x86: the second thread of a core has the number of the first, and more."""
    return {cpu: f"{cpu % cores},{cpu % cores + cores}" for cpu in range(2 * cores)}


TWO_SOCKETS = Machine(
    {0: "0-55,112-167", 1: "56-111,168-223"},
    threads(112),
    {f"0000:{bus}:00.0": 0 for bus in ("1b", "43", "52", "61")}
    | {f"0000:{bus}:00.0": 1 for bus in ("9d", "c3", "d1", "df")},
)
"""Two processors of 56 cores, and eight GPUs."""

FOUR_NODES = Machine(
    {node: f"{16 * node}-{16 * node + 15},{16 * node + 64}-{16 * node + 79}" for node in range(4)},
    threads(64),
    {"0000:c1:00.0": 3, "0000:c6:00.0": 3, "0000:c9:00.0": 1, "0000:ce:00.0": 1}
    | {"0000:d1:00.0": 0, "0000:d6:00.0": 0, "0000:d9:00.0": 2, "0000:de:00.0": 2},
)
"""One processor of 64 cores, told as four nodes (NPS4), whose GPUs are not in the nodes' order."""

ALTERNATING = Machine({0: "0,2,4,6", 1: "1,3,5,7"}, {}, {"0000:01:00.0": -1})
"""Two processors whose CPUs are numbered in turns; its kernel tells no node of a device."""

ONE_NODE = Machine({0: "0-7"}, threads(4), {"0000:01:00.0": -1})
"""A workstation: its kernel tells no node of a device."""

SILENT = Machine(gpus={"0000:01:00.0": -1})
"""A kernel without NUMA, in a container that hides the cores."""

MEMORY_NODES = Machine(
    {0: "0-71", 1: "72-143", **dict.fromkeys(range(2, 18), "")},
    {},
    {"0009:01:00.0": 0, "0019:01:00.0": 1},
)
"""Two processors with one thread a core; the GPUs' memory is nodes without a CPU."""
