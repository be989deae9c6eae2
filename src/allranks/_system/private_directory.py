"""The private directory where the ranks of one job meet, and what killed jobs left of theirs.

Each stands in a directory of this user's that nobody else can enter, and holds a file by which it
is known as ours: nothing else is ever removed, whatever it is called.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of mode 0700 is made in it

MARKER = "made-by-allranks"
MARKED = b"The ranks of one job meet here. It is removed when the job has ended.\n"

STORE = "store"
"""The name of the stores' files begins so."""

TRIES = 3

YOUNG = 60.0
"""Seconds before which a directory may not have been locked yet."""

_log = logging.getLogger("allranks")


@contextmanager
def private_directory() -> Iterator[Path]:
    """A fresh directory of mode 0700 that goes with this process, in memory where possible.

    Raises:
        OSError: none can be made; the error names the path that was tried last.
    """
    maker = os.getpid()
    directory = _made()
    lock = lock_of(directory)
    try:
        yield directory
    finally:
        if os.getpid() == maker:  # A forked rank leaves through here too.
            _remove(lock, directory)
            os.close(lock)


def _made() -> Path:
    if os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        with suppress(OSError):  # It is full, say.
            return _made_in(SHARED_MEMORY)
    return _made_in(Path(tempfile.gettempdir()))


def _made_in(base: Path) -> Path:
    for _ in range(TRIES):
        with suppress(FileNotFoundError):  # Another job has left, and its parent with it.
            if parent := _parent(base):
                _sweep(parent)
            return _marked(Path(tempfile.mkdtemp(prefix="allranks-", dir=parent or base)))
    return _marked(Path(tempfile.mkdtemp(prefix="allranks-", dir=base)))


def _marked(directory: Path) -> Path:
    try:
        (directory / MARKER).write_bytes(MARKED)
    except OSError as error:  # A file system that is full has room for a directory, but no more.
        (directory / MARKER).unlink(missing_ok=True)
        directory.rmdir()
        error.filename = str(directory)
        raise
    return directory


def _parents_name() -> str:
    return f".allranks-{os.getuid()}"


def _parent(base: Path) -> Path | None:
    """This user's own directory; None where somebody else has made it, or may enter it."""
    parent = base / _parents_name()
    with suppress(FileExistsError):
        parent.mkdir(mode=0o700)
    facts = parent.lstat()
    ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid()
    return parent if ours and not facts.st_mode & 0o077 else None


def lock_of(directory: Path) -> int:
    """Lock a directory for as long as this process, or a rank it has forked, is there.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it is none.
    """
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    return lock


def _sweep(parent: Path) -> None:
    """Remove what killed jobs of this user left behind: what is marked, and nobody has locked."""
    for left in parent.iterdir():
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > YOUNG:
                lock = lock_of(left)
                try:
                    if _is_marked(lock) and _remove(lock, left):
                        _log.warning("removed %s, which a killed job has left", left)
                finally:
                    os.close(lock)


def _is_marked(directory: int) -> bool:
    marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        return os.fstat(marker).st_uid == os.getuid() and os.read(marker, 1000) == MARKED
    finally:
        os.close(marker)


def _remove(directory: int, path: Path) -> bool:
    """Remove what we have put there, and the directories that are empty then.

    Returns:
        Whether the directory has gone.
    """
    stores = [name for name in os.listdir(directory) if name.startswith(STORE)]
    for name in [*stores, MARKER]:
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
    with suppress(OSError):
        path.rmdir()
        if path.parent.name == _parents_name():
            path.parent.rmdir()
    return not path.exists()
