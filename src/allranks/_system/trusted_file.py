"""Files that several processes of one user share, in a directory that others may write to.

Whoever writes such a file decides where a rank goes, and from whom it takes pickles: only what
this user has written, and nobody else can write, is believed.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

LARGEST = 65536
"""Bytes of a file of ours; a larger one is none."""


class UntrustedError(OSError):
    """A file or a directory through which others could pose as this user."""


def read(path: Path) -> bytes:
    """What a file of this user's holds.

    Raises:
        FileNotFoundError: there is none.
        UntrustedError: others have written it, or could.
        OSError: it cannot be read.
    """
    _check_directory(path.parent)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise UntrustedError(f"{path} is a link; remove it") from error
        raise
    with os.fdopen(file, "rb") as opened:
        _check(path, os.fstat(file))
        return opened.read(LARGEST + 1)


def write(path: Path, text: str) -> None:
    """Put a file in the place of any other, whole or not at all, for this user alone.

    Raises:
        UntrustedError: others could replace it.
        OSError: it cannot be written.
    """
    _check_directory(path.parent)
    draft, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # Of mode 0600.
    try:
        with os.fdopen(draft, "w", encoding="utf-8") as opened:
            opened.write(text)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _check_directory(directory: Path) -> None:
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UntrustedError(
            f"everybody can write to {directory} and remove what others have put there. Use a "
            f"directory of your own or of your group, or `chmod +t {directory}`"
        )


def _check(path: Path, facts: os.stat_result) -> None:
    """Refuse a file through which somebody else could pose as rank 0."""
    if not stat.S_ISREG(facts.st_mode):
        raise UntrustedError(f"{path} is no regular file; remove it")
    if facts.st_uid != os.geteuid() and facts.st_uid != _own_id_in(path.parent):
        raise UntrustedError(
            f"{path} belongs to user {facts.st_uid}, and this process is of user {os.geteuid()}: "
            "somebody else could pose as rank 0. Remove it, or use a directory of your own"
        )
    if facts.st_mode & stat.S_IWOTH:
        raise UntrustedError(f"everybody can write to {path}; remove it")


def _own_id_in(directory: Path) -> int | None:
    """The owner of this user's files here: a network file system may map root to nobody."""
    with suppress(OSError), tempfile.TemporaryFile(dir=directory) as made:
        return os.fstat(made.fileno()).st_uid
    return None
