"""Which CPUs this process may use, and how many: not what the machine has."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from allranks._system import cgroups

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


def usable_cpus() -> float:
    """The CPUs of this process's affinity, or of its cgroups' tightest quota, if that is less.

    Schedulers and containers limit one or the other (sched_setaffinity(2); ``cpu.max`` of the
    kernel's page on cgroup v2, ``cpu.cfs_quota_us`` of that on v1).
    """
    return min(len(affinity()), quota())


def affinity() -> list[int]:
    """The numbers of the CPUs on which this process may run."""
    with suppress(AttributeError, OSError):  # Linux alone has it.
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def can_be_chosen() -> bool:
    """Whether a process can choose on which CPUs it runs."""
    return hasattr(os, "sched_setaffinity")


def move(now: Collection[int], to: Collection[int]) -> None:
    """Let the threads of this process that may run on some CPUs run on others. Linux only.

    Threads that may run elsewhere were bound by somebody, and stay; one that begins later runs
    where the thread may that begins it.

    Args:
        now: where the threads that are meant may run.
        to: where they are to run.

    Raises:
        OSError: the system refuses.
    """
    moved: set[int] = set()
    while begun := {*_threads_on(now)} - moved:  # A thread not yet moved may begin another.
        for thread in begun:
            with suppress(ProcessLookupError):  # It has ended.
                os.sched_setaffinity(thread, to)
        moved |= begun


def _threads_on(cpus: Collection[int]) -> Iterator[int]:
    for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208 - names, not paths
        with suppress(ProcessLookupError):
            if os.sched_getaffinity(thread) == set(cpus):
                yield thread


def quota() -> float:
    """The least quota of this process's cgroup and those above it, in CPUs; inf without one."""
    quotas = (_quota_of(folder) for folder in cgroups.folders("cpu"))
    return min((one for one in quotas if one is not None), default=math.inf)


def _quota_of(folder: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number: no limit.
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    return None
