"""How much memory a call may take."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allranks._system import host_memory

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

    on_host = (host_memory.left() or _free_pages()) // local_ranks
    if device.type != "cuda":
        return on_host
    return min(on_host, torch.cuda.mem_get_info(device)[0])


def _free_pages() -> int:
    """On another system than Linux."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
