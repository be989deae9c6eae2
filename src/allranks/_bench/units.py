"""Figures for people: sizes in powers of 1024, times in microseconds, bandwidths in GB/s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._system.printable import printable

if TYPE_CHECKING:
    from allranks._bench.results import Pair, Setting


def microseconds(seconds: float) -> str:
    """A time, without its unit: ``12.3``, ``1,234``."""
    shown = seconds * 1e6
    return f"{shown:,.1f}" if shown < 100 else f"{shown:,.0f}"


def gigabytes(bandwidth: float) -> str:
    """A bandwidth in GB/s, without its unit: ``0.0012``, ``1.23``."""
    if bandwidth < 0.0001:
        return "<0.0001"
    return f"{bandwidth:.4f}" if bandwidth < 0.1 else f"{bandwidth:.2f}"


def latency_of(pair: Pair) -> str:
    """A pair's latency, with its unit."""
    return f"{microseconds(pair.latency)} µs"


def bandwidth_of(pair: Pair) -> str:
    """A pair's bandwidth, with its unit."""
    return f"{gigabytes(pair.bandwidth)} GB/s"


def ends_of(pair: Pair, setting: Setting, *, between: str = " ") -> str:
    """A pair by its ranks and hosts: ``rank 0 on a to rank 3 on b``.

    Args:
        pair: the pair.
        setting: where it was measured.
        between: what stands between both ends, such as the end of a line.
    """
    one, other = (f"rank {rank} on {setting.hosts[rank]}" for rank in (pair.source, pair.target))
    return printable(f"{one}{between}to {other}")


def headline(setting: Setting) -> str:
    """Where a run was made, in a line."""
    hosts = len(set(setting.nodes))
    where = f"{setting.world_size} ranks on {hosts} host{'s' * (hosts != 1)}"
    told = f"{where}, {setting.backend} on {setting.device}, started by {setting.launcher}"
    return printable(f"{told}; allranks {setting.allranks}, torch {setting.torch}")
