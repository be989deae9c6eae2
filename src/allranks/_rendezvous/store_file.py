"""A file of keys and values, which processes write at once; one that is killed leaves no harm."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LENGTHS = struct.Struct("<II")
"""What a record begins with: the lengths of its key and of its value, which follow."""

DELETED = 0xFFFFFFFF
"""In the place of a value's length: the key is no more."""


class StoreFile:
    """Keys and values in a file, to which each change is added as a record."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._values: dict[str, bytes] = {}
        self._end_of_read = 0
        self._thread = threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    @contextmanager
    def read(self) -> Iterator[dict[str, bytes]]:
        """All that was written so far."""
        with self._errors(), self._thread:
            if self._size() != self._end_of_read:
                with self._locked(fcntl.LOCK_SH):
                    self._catch_up()
            yield self._values

    @contextmanager
    def write(self) -> Iterator[dict[str, bytes]]:
        """All that was written so far, while nobody else writes."""
        with self._errors(), self._thread, self._locked(fcntl.LOCK_EX):
            self._catch_up()
            yield self._values

    def append(self, key: str, value: bytes | None) -> None:
        """Change a key, or delete it; within ``write`` only."""
        if self._size() > self._end_of_read:
            os.ftruncate(self._file, self._end_of_read)  # A rank was killed while it wrote.
        name, size = os.fsencode(key), DELETED if value is None else len(value)
        rest = memoryview(LENGTHS.pack(len(name), size) + name + (value or b""))
        at = self._end_of_read
        while rest:
            count = os.pwrite(self._file, rest, at)
            rest, at = rest[count:], at + count
        self._catch_up()

    def _size(self) -> int:
        import torch.distributed as dist

        now = os.fstat(self._file)
        if not now.st_nlink:
            raise dist.DistNetworkError(f"{self._path} was removed")
        return now.st_size

    def _catch_up(self) -> None:
        at = self._end_of_read
        data = os.pread(self._file, self._size() - at, at)
        for key, value, end in _records(data):
            self._end_of_read = at + end
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.flock(self._file, how)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The errors of a store are RuntimeErrors, as all that use one expect."""
        try:
            yield
        except OSError as error:
            import torch.distributed as dist

            raise dist.DistError(f"{self._path}: {error.strerror or error}") from error


def _records(data: bytes) -> Iterator[tuple[str, bytes | None, int]]:
    """The whole records, each with where it ends; the last one may have been begun only."""
    end = 0
    while end + LENGTHS.size <= len(data):
        key_size, value_size = LENGTHS.unpack_from(data, end)
        key = end + LENGTHS.size
        value = key + key_size
        end = value if value_size == DELETED else value + value_size
        if end > len(data):
            return
        yield os.fsdecode(data[key:value]), None if value_size == DELETED else data[value:end], end
