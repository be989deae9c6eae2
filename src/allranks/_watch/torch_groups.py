"""What torch tells of its process groups; what it has no public way to tell stands here alone."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch.distributed as dist

DEFAULT_TIMEOUT = timedelta(minutes=30)
"""How long a collective may take, where nobody says: as in torch."""

unusable: dict[dist.ProcessGroup, str] = {}
"""The groups that no call may use any more, and why: their last calls stay in flight for ever."""


def table() -> dict[dist.ProcessGroup, Any] | None:
    """The groups that are up, in a dict of torch's; None where this version has no such dict.

    Each call counts them, so that this must cost little.
    """
    torchs: Any = sys.modules["torch.distributed"]
    try:
        found: dict[dist.ProcessGroup, Any] = torchs.distributed_c10d._world.pg_map  # noqa: SLF001
    except AttributeError:
        return None
    return found


def world() -> dist.ProcessGroup:
    """The group of all ranks."""
    import torch.distributed as dist

    group = dist.group.WORLD
    if group is None:
        raise CollectiveError("no process group is up")
    return group


def store_of_world() -> dist.Store | None:
    """The store over which the group of all ranks came up; None where torch does not tell."""
    import torch.distributed as dist

    tell = getattr(dist.distributed_c10d, "_get_default_store", None)
    return tell() if tell else None


def begun_calls() -> dict[str, int]:
    """How many calls each group has begun, by the group's name; messages may be among them.

    This can be read at any time, also while other threads make calls.
    """
    return {name_of(group): _begun_on(group) for group in all_groups()}


def _begun_on(group: dist.ProcessGroup) -> int:
    """How many calls a group has begun on this rank, as far as its backends count them."""
    begun = 0
    for device in getattr(group, "_device_types", ()):
        with suppress(RuntimeError, AttributeError):
            backend: Any = group._get_backend(device)  # noqa: SLF001
            begun += backend._get_sequence_number_for_group()  # noqa: SLF001
    return begun


def timeout_of(group: dist.ProcessGroup) -> timedelta:
    """A group's timeout; torch's default where this version does not tell."""
    import torch

    for kind in ("cpu", "cuda"):
        try:
            found = group._get_backend(torch.device(kind)).options._timeout  # noqa: SLF001
        except (RuntimeError, AttributeError):
            continue
        if isinstance(found, timedelta):
            return found
    return DEFAULT_TIMEOUT


@contextmanager
def named(name: str) -> Iterator[None]:
    """Within the block, torch gives the next group this name.

    Raises:
        CollectiveError: this version of torch has no function that names groups.
    """
    import torch.distributed as dist

    torchs: Any = dist.distributed_c10d
    before = getattr(torchs, "_process_group_name", None)
    if before is None:
        raise CollectiveError("this version of torch does not let allranks name a group")

    def restore() -> None:
        torchs._process_group_name = before  # noqa: SLF001

    def its_name(*_: object, **__: object) -> str:
        restore()  # At once, since the making of the group may never end.
        return name

    torchs._process_group_name = its_name  # noqa: SLF001
    try:
        yield
    finally:
        if torchs._process_group_name is its_name:  # noqa: SLF001
            restore()


@contextmanager
def unbound() -> Iterator[None]:
    """Within the block WORLD is bound to no device.

    From a WORLD that is, torch splits NCCL's communicators of other groups off, for which all its
    ranks would have to come; and it takes for granted that each group has a backend for the device.
    """
    whole: Any = world()
    bound = getattr(whole, "bound_device_id", None)
    if bound is None:
        yield
        return
    whole.bound_device_id = None
    try:
        yield
    finally:
        whole.bound_device_id = bound


def backends(group: dist.ProcessGroup) -> dict[str, str]:
    """The backend of a group for each type of device."""
    import torch.distributed as dist

    pairs = (pair.partition(":") for pair in dist.get_backend_config(group).split(","))
    return {kind: backend for kind, _, backend in pairs if backend}


def is_up(group: dist.ProcessGroup) -> bool:
    """Whether a group has not been destroyed."""
    import torch.distributed as dist

    try:
        dist.get_backend(group)
    except (ValueError, TypeError):  # Of torch before 2.7.
        return False
    return True


def all_groups() -> list[dist.ProcessGroup]:
    """All groups that are up; WORLD alone where torch does not list them."""
    import torch.distributed as dist

    up = table() or {}
    return [group for group in {dist.group.WORLD, *up} if group is not None]


def name_of(group: dist.ProcessGroup) -> str:
    """A group's name, the same on all its ranks."""
    import torch.distributed as dist

    return "WORLD" if group is dist.group.WORLD else str(group.group_name)


def global_ranks(group: dist.ProcessGroup) -> tuple[int, ...]:
    """The global ranks of a group; none if it was destroyed."""
    import torch.distributed as dist

    try:
        return tuple(dist.get_process_group_ranks(group))
    except (KeyError, ValueError):
        return ()


def ranks_of(name: str) -> tuple[int, ...]:
    """The global ranks of a group that is up, by its name; none if there is no such group."""
    import torch.distributed as dist

    for group in all_groups():
        if name_of(group) == name:
            return tuple(dist.get_process_group_ranks(group))
    return ()


def mark_unusable(group: dist.ProcessGroup, why: str) -> None:
    """Let no further call use a group: messages of the last one may still be under way."""
    unusable.setdefault(group, why)


def number_unusable() -> int:
    """How many groups are given up: their last calls stay in flight for ever."""
    return len(unusable)
