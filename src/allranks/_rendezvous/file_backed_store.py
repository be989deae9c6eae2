"""A store of torch's kind in a file of ours; imported where torch is there already."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import torch.distributed as dist

from allranks._system.waiting import Deadline

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from datetime import timedelta

    from allranks._rendezvous.store_file import StoreFile

FIRST_LOOK = 0.0002
LONGEST_PAUSE = 0.05
"""Seconds between looks for a key: many at first, few later."""


class FileBackedStore(dist.Store):
    """A file that is looked at often at first, and seldom later."""

    def __init__(self, file: StoreFile, path: str, ended: threading.Event | None) -> None:
        super().__init__()
        self._file = file
        self._path = path
        self._ended = ended

    def get(self, key: str) -> bytes:
        self.wait([key])
        with self._file.read() as values:
            return values[key]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        default: timedelta = self.timeout  # type: ignore[attr-defined]  # not in the stubs
        seconds = (timeout or default).total_seconds()
        end, pause = Deadline.after(seconds), FIRST_LOOK
        while not self.check(list(keys)):
            if end.passed or (self._ended and self._ended.is_set()):
                raise dist.DistStoreError(
                    f"{keys} did not come within {seconds:g} s ({self._path})"
                )
            time.sleep(pause)
            pause = min(pause * 1.2, LONGEST_PAUSE)

    def set(self, key: str, value: str | bytes) -> None:
        with self._file.write():
            self._file.append(key, _as_bytes(value))

    def add(self, key: str, amount: int) -> int:
        with self._file.write() as values:
            total = int(values.get(key, b"0")) + amount
            self._file.append(key, b"%d" % total)
        return total

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        with self._file.write() as values:
            if values.get(key, b"") == _as_bytes(expected):
                self._file.append(key, _as_bytes(desired))
            return values.get(key, _as_bytes(expected))

    def check(self, keys: list[str]) -> bool:
        with self._file.read() as values:
            return all(key in values for key in keys)

    def delete_key(self, key: str) -> bool:
        with self._file.write() as values:
            there = key in values
            if there:
                self._file.append(key, None)
        return there

    def num_keys(self) -> int:
        with self._file.read() as values:
            return len(values)

    def clone(self) -> FileBackedStore:
        return self  # A file has no connection that one thread could hold from another.

    def has_extended_api(self) -> bool:
        return False


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else os.fsencode(value)
