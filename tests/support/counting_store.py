"""A store that counts what is asked of it, and how many bytes of values travel."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


class CountingStore:
    """Hands each operation to another store.

    Attributes:
        operations: how many there were.
        moved: bytes of values, written and read.
        names: how often each operation was used.
    """

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self.operations = 0
        self.moved = 0
        self.names: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        """What is no operation is the other store's."""
        return getattr(self._store, name)

    def _count(self, name: str, *values: str | bytes) -> None:
        self.operations += 1
        self.moved += sum(map(len, values))
        self.names[name] = self.names.get(name, 0) + 1

    def set(self, key: str, value: str) -> None:
        self._count("set", value)
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        value = self._store.get(key)
        self._count("get", value)
        return value

    def add(self, key: str, amount: int) -> int:
        self._count("add")
        return self._store.add(key, amount)

    def check(self, keys: list[str]) -> bool:
        self._count("check")
        return self._store.check(keys)

    def wait(self, keys: list[str], *timeout: Any) -> None:
        self._count("wait")
        self._store.wait(keys, *timeout)

    def multi_get(self, keys: list[str]) -> list[bytes]:
        values = self._store.multi_get(keys)
        self._count("multi_get", *values)
        return values

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        self._count("multi_set", *values)
        self._store.multi_set(keys, values)
