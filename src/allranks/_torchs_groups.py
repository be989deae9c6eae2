"""What torch keeps of its groups and has no public way to ask for, in one place."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from allranks._settings import DEFAULT_TIMEOUT
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch.distributed as dist


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


def begun_calls(group: dist.ProcessGroup) -> int:
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
