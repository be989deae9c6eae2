"""How much memory a call may take."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

COPIES = 5
"""How many times the size of a call a rank may hold: its own buffers, and those of the backend."""


def fitting(sizes: Sequence[int], available: int) -> list[int]:
    """The sizes of calls for which this memory suffices.

    Args:
        sizes: in bytes.
        available: bytes that a rank may take.
    """
    return [size for size in sizes if size * COPIES <= available]


def available_to_rank(device: torch.device, local_ranks: int) -> int:
    """Bytes that this rank may take, on its device and on its host, which it shares.

    Args:
        device: where tensors lie.
        local_ranks: how many ranks this host has.
    """
    import torch

    on_host = _available_on_host() // local_ranks
    if device.type != "cuda":
        return on_host
    return min(on_host, torch.cuda.mem_get_info(device)[0])


def _available_on_host() -> int:
    limits = [_free_pages(), *_of_meminfo(), *_of_cgroup()]
    return min(limits[1:] or limits)


def _free_pages() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_meminfo() -> list[int]:
    """What Linux could give without swapping; nothing on another system."""
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return []


def _of_cgroup() -> list[int]:
    """What is left in this process's control group, where it has a limit, as in a Slurm step."""
    with suppress(OSError, ValueError):  # The limit may be the word "max".
        group = own_cgroup()
        limit = int((group / "memory.max").read_text())
        return [limit - int((group / "memory.current").read_text())]
    return []


def own_cgroup() -> Path:
    """The directory of this process's control group."""
    name = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    return Path("/sys/fs/cgroup", name)
