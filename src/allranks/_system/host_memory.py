"""How much memory this process may still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from allranks._system import cgroups

MEMORY = Path("/proc/meminfo")


def left() -> int | None:
    """Bytes that this host has left, or less where a control group limits this process.

    None where the system does not tell.
    """
    known = [_left_in(folder) for folder in cgroups.folders("memory")]
    return min((one for one in (*known, _available()) if one is not None), default=None)


def _available() -> int | None:
    """What Linux could give without swapping."""
    with suppress(OSError, ValueError):
        lines = MEMORY.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    return None


def _left_in(folder: Path) -> int | None:
    """What a cgroup has left; the pages of files that it holds can be had at once."""
    for most, now, files in (
        ("memory.max", "memory.current", "file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ):
        limit, used = (cgroups.number_in(folder / name) for name in (most, now))
        if limit is not None and used is not None:
            return limit - used + _statistic(folder / "memory.stat", files)
    return None


def _statistic(file: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        fields = dict(line.split() for line in file.read_text().splitlines())
        return int(fields.get(name, 0))
    return 0
