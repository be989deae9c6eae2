"""Files that are there whole or not at all, written once for all ranks."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allranks._process_group.together import call_on_first
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._transport.process_groups import Group


@outside_graphs
def save(obj: Any, path: str | os.PathLike[str], *, group: Group | None = None, **how: Any) -> None:
    """Save an object by ``torch.save`` on the group's first rank, whole or not at all. Collective.

    The file is written under another name beside it, forced to disk and renamed, so that a reader
    finds the old one or the new one, and a job that is killed leaves the old one. The others wait
    without a collective, however long it takes, and return when the file is there.

    Args:
        obj: of the first rank (rank 0 of WORLD); ignored elsewhere, where it may be None.
        path: where to; the directory must be there.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        **how: further arguments of ``torch.save``.

    Raises:
        TypeError: it is no path, on every rank.
        OSError: the file cannot be written; on every rank, as all that ``torch.save`` raises. What
            was there before is still there.
        PeerFailedError: the first rank left or died in the meantime.
    """
    import torch

    members = process_groups.members_of("save", group)
    call_on_first(
        members, "save", lambda: _replace(_path(path), lambda file: torch.save(obj, file, **how))
    )


def _path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise TypeError(
            "save takes a path, since it writes another file beside it first, and not "
            f"{type(path).__name__}; for an open file: `if allranks.is_master(): "
            "torch.save(obj, file)`"
        ) from error


def _replace(path: Path, write: Callable[[Any], None]) -> None:
    """Put a new file in the place of what was there, by a name that no other job takes."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory", str(path.parent))
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        _write(number, write, path)
        Path(name).chmod(_mode(path))
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    _sync_directory(path.parent)


def _write(number: int, write: Callable[[Any], None], path: Path) -> None:
    """Write a file, and force it to disk; an error of the system names the path.

    ``torch.save`` hides that the disk is full behind an error of its own.
    """
    try:
        with os.fdopen(number, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.filename or not cause.errno:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those of any new file."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_directory(directory: Path) -> None:
    """The new name is on disk, too, where a directory can be asked for that."""
    with suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
