"""The two bandwidths of a call, as nccl-tests define them.

Source: doc/PERFORMANCE.md of https://github.com/NVIDIA/nccl-tests. The algorithm bandwidth is the
size of the call by its time. The bus bandwidth is that times a factor, which makes it what each
rank's link must have carried at least, whatever the number of ranks. The size is that of the
larger buffer: in ``all_gather`` what a rank receives, its own part included, in ``reduce_scatter``
and ``all_to_all`` what it gives.
"""

from __future__ import annotations

GIGA = 1e9
"""Bytes in a gigabyte, as bandwidths count them."""


def algorithm_bandwidth(size: int, seconds: float) -> float:
    """GB/s: the bytes of a call, by its time."""
    return size / seconds / GIGA


def of_all_reduce(ranks: int) -> float:
    """The factor of ``all_reduce``: each rank's data travel twice, but for its own part."""
    return 2 * (ranks - 1) / ranks


def of_parts(ranks: int) -> float:
    """The factor of calls in whose parts each rank's data travel once, but for its own part."""
    return (ranks - 1) / ranks


def of_broadcast(ranks: int) -> float:  # noqa: ARG001 - each of these takes it
    """The factor of ``broadcast``: the sender's link carries everything once."""
    return 1.0
