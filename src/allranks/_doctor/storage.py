"""Where ranks put files that others of the host read: shared memory, and the temporary files."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, merged
from allranks._system.words import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._doctor.checks import Place

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only its room is looked at

LEAST = 2**20
"""Bytes without which hardly a tensor of a DataLoader's worker can be shared."""

OF_NCCL = 2 * 4 * 2**20
"""Bytes for each rank with a GPU: a buffer each way, of NCCL's NCCL_BUFFSIZE."""


AMPLE = 2**30
"""Bytes in all from which on it is not too small, but full of what others have left."""


@dataclass(frozen=True)
class Storage:
    """Room for files.

    Attributes:
        shared: bytes free in the shared memory; None where the system has none.
        shared_size: bytes that it holds in all.
        shared_needed: bytes that the ranks of the host may need there.
        temporary: where temporary files go.
        asked: what TMPDIR says, or "".
        temporary_free: bytes free there.
    """

    shared: int | None
    shared_size: int
    shared_needed: int
    temporary: str
    asked: str
    temporary_free: int


def own_storage(ranks_here: int, *, has_gpu: bool) -> Storage:
    """What this process finds.

    Args:
        ranks_here: how many ranks the host has.
        has_gpu: whether they use GPUs.
    """
    temporary = _temporary()
    shared = _room(SHARED_MEMORY)
    return Storage(
        shared.free if shared else None,
        shared.size if shared else 0,
        max(LEAST, ranks_here * OF_NCCL if has_gpu else 0),
        temporary,
        os.environ.get("TMPDIR", ""),
        room.free if (room := _room(temporary)) else 0,
    )


def _temporary() -> str:
    """Where Python puts temporary files: not in TMPDIR where it cannot; "" where nowhere."""
    with suppress(FileNotFoundError):
        return tempfile.gettempdir()
    return ""


class _Room(NamedTuple):
    free: int
    size: int


def _room(folder: str) -> _Room | None:
    """Of the file system of a folder, in bytes; None where it is not there."""
    with suppress(OSError):
        found = os.statvfs(folder)
        return _Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    return None


def storage_rows(of: Mapping[Place, Storage]) -> list[Check]:
    """Rows on /dev/shm and TMPDIR."""
    return merged({place: (_shared(one), _temporary_files(one)) for place, one in of.items()})


def _shared(one: Storage) -> Check:
    if one.shared is None:
        return Check(SHARED_MEMORY, OK, "this system has none")
    room = f"{size(one.shared)} of {size(one.shared_size)} free"
    seen = f"{room}; {size(one.shared_needed)} are needed"
    if one.shared >= one.shared_needed:
        return Check(SHARED_MEMORY, OK, seen)
    is_small = one.shared_size < AMPLE
    remedy = f"mount -o remount,size=8G {SHARED_MEMORY}" if is_small else f"rm -i {SHARED_MEMORY}/*"
    return Check(SHARED_MEMORY, FAILURE if one.shared < LEAST else WARNING, seen, remedy)


def _temporary_files(one: Storage) -> Check:
    what = "TMPDIR"
    if not one.temporary:
        return Check(what, FAILURE, "no directory takes temporary files", "export TMPDIR=$HOME")
    if one.asked and Path(one.asked).absolute() != Path(one.temporary).absolute():
        seen = f"TMPDIR={one.asked} takes no files; {one.temporary} is used instead"
        return Check(what, WARNING, seen, f"mkdir -p {one.asked}")
    seen = f"{one.temporary}, {size(one.temporary_free)} free"
    if one.temporary_free >= LEAST:
        return Check(what, OK, seen)
    return Check(what, WARNING, seen, f"export TMPDIR={_another_than(one.temporary)}")


def _another_than(full: str) -> str:
    return next((f for f in ("/tmp", "/var/tmp") if f != full), "$HOME")  # noqa: S108 - words
