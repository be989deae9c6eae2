"""What the system lets a rank have open, start and lock, against what the world needs of it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, merged
from allranks._system import cgroups, descriptors
from allranks._system.words import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from allranks._doctor.checks import Place

OWN_THREADS = 16
"""Threads of a rank beside torch's own: gloo's, the watch's, those that wait in calls of torch."""

INFINIBAND = Path("/sys/class/infiniband")
"""Where Linux lists the devices that move data from locked memory."""

USUAL_DESCRIPTORS = 65536
"""What a remedy asks for; more, where the world needs more."""


@dataclass(frozen=True)
class Limits:
    """What a process may have.

    Attributes:
        descriptors: how many may be open, once the soft limit has been raised; None without limit.
        descriptors_needed: how many a rank of this world may have open.
        descriptors_must: how many its process will surely need: of rank 0, which hosts the store.
        threads_left: how many more may be started; None without limit.
        threads_each: how many each rank may start.
        locked: bytes of memory that may be locked; None without limit.
        infiniband: the devices that need locked memory.
    """

    descriptors: int | None
    descriptors_needed: int
    descriptors_must: int
    threads_left: int | None
    threads_each: int
    locked: int | None
    infiniband: tuple[str, ...]


def own_limits(needed: int, must: int) -> Limits:
    """This process's, where the soft limit of descriptors is raised as ``setup`` does.

    Args:
        needed: descriptors that a rank may have open, from ``init_group.descriptors_of_rank``.
        must: those it surely will, from ``bring_up.descriptors_of_rank_0``; 0 of other ranks.
    """
    import torch

    return Limits(
        descriptors.make_room(max(needed, must)),
        needed,
        must,
        _threads_left(),
        torch.get_num_threads() + OWN_THREADS,
        _locked(),
        _names_in(INFINIBAND),
    )


def _names_in(folder: Path) -> tuple[str, ...]:
    with suppress(OSError):
        return tuple(sorted(one.name for one in folder.iterdir()))
    return ()


def _locked() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    return None if limit == resource.RLIM_INFINITY else limit


def _threads_left() -> int | None:
    """What pids.max of the cgroups leaves, or RLIMIT_NPROC, which does not bind root."""
    left = [count for folder in cgroups.folders("pids") if (count := _left_in(folder)) is not None]
    if (of_user := _left_of_user()) is not None:
        left.append(of_user)
    return max(0, min(left)) if left else None


def _left_in(folder: Path) -> int | None:
    most, now = (cgroups.number_in(folder / name) for name in ("pids.max", "pids.current"))
    return None if most is None or now is None else most - now


def _left_of_user() -> int | None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return None
    return limit - sum(_threads_of(status) for status in Path("/proc").glob("[0-9]*/status"))


def _threads_of(status: Path) -> int:
    """The threads of a process of this user; 0 of another one's."""
    with suppress(OSError, ValueError):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        if fields["Uid"].split()[0] == str(os.getuid()):
            return int(fields["Threads"])
    return 0


def limit_rows(of: Mapping[Place, Limits]) -> list[Check]:
    """Rows on descriptors, threads and locked memory."""
    return merged({place: tuple(_rows(one)) for place, one in of.items()})


def _rows(one: Limits) -> Iterator[Check]:
    yield _descriptors(one)
    yield _threads(one)
    yield _locked_memory(one)


def _descriptors(one: Limits) -> Check:
    what, most = "descriptors", one.descriptors
    needed = max(one.descriptors_needed, one.descriptors_must)
    if most is None or most >= needed:
        return Check(what, OK, f"{'no limit' if most is None else most}; {needed} are needed")
    seen = f"at most {most} files and connections may be open, and {needed} may be needed"
    remedy = f"ulimit -n {max(USUAL_DESCRIPTORS, needed)}"
    return Check(what, FAILURE if most < one.descriptors_must else WARNING, seen, remedy)


def _threads(one: Limits) -> Check:
    left, each = one.threads_left, one.threads_each
    if left is None or left >= each:
        told = "no limit" if left is None else f"{left} more may be started"
        return Check("threads", OK, f"{told}; a rank may start {each}")
    seen = f"{left} more threads may be started, and a rank may start {each}"
    return Check("threads", FAILURE, seen, f"ulimit -u {4096 * (1 + each // 4096)}")


def _locked_memory(one: Limits) -> Check:
    what = "locked memory"
    told = "no limit" if one.locked is None else f"at most {size(one.locked)}"
    if not one.infiniband:
        return Check(what, OK, f"{told}; no InfiniBand device here needs it")
    seen = f"{told}, for {', '.join(one.infiniband)}"
    if one.locked is None:
        return Check(what, OK, seen)
    return Check(what, WARNING, seen, "ulimit -l unlimited")
