"""How many CPUs this process may use: not how many the machine has."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus() -> float:
    """The CPUs of this process's affinity, or of its cgroups' tightest quota, if that is less.

    Schedulers and containers limit one or the other (sched_setaffinity(2); ``cpu.max`` of the
    kernel's page on cgroup v2, ``cpu.cfs_quota_us`` of that on v1).
    """
    return min(_affinity(), _quota())


def _affinity() -> int:
    with suppress(AttributeError, OSError):  # Linux alone has it.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quota() -> float:
    """The least quota of this process's cgroup and those above it, in CPUs."""
    quotas = [math.inf]
    with suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
                quotas += _quotas(CGROUPS / controllers, path)
    return min(quotas)


def _quotas(root: Path, path: str) -> list[float]:
    """Those of a cgroup and of all above it; in a container the path may not be there."""
    here = root / path.lstrip("/")
    inside = [folder for folder in (here, *here.parents) if folder.is_relative_to(root)]
    return [quota for folder in inside if (quota := _quota_of(folder)) is not None]


def _quota_of(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number: no limit.
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    return None
