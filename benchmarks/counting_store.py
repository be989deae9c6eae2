"""A store that counts what is asked of it, and how many bytes travel."""

from __future__ import annotations

import threading
from collections import Counter
from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

OPERATIONS = frozenset(
    [
        "add",
        "append",
        "check",
        "compare_set",
        "delete_key",
        "get",
        "multi_get",
        "multi_set",
        "num_keys",
        "set",
        "wait",
    ]
)


class CountingStore:
    """Hands each operation to another store, and counts it: a clone counts here, too.

    Attributes:
        calls: how often each operation was used.
        sent: bytes of keys and values that were sent, by operation.
        received: bytes of the answers, by operation.
        under_way: how many calls have not returned, by operation.
    """

    def __init__(self, store: Any) -> None:
        """Count from zero.

        Args:
            store: is asked.
        """
        self._store = store
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()

    @property
    def operations(self) -> int:
        """How many there were."""
        return self.calls.total()

    @property
    def moved(self) -> int:
        """Bytes of keys and values, both ways."""
        return self.sent.total() + self.received.total()

    def clone(self) -> CountingStore:
        """Another connection, which counts here, too."""
        other = copy(self)
        vars(other)["_store"] = self._store.clone()
        return other

    def __getattr__(self, name: str) -> Any:
        """An operation that is counted; all else is the other store's."""
        if name in {"_store", "_lock"}:
            raise AttributeError(name)  # A copy asks before it has them.
        found = getattr(self._store, name)
        return self._counted(name, found) if name in OPERATIONS else found

    def _counted(self, name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with self._lock:
                self.calls[name] += 1
                self.under_way[name] += 1
                self.sent[name] += _bytes_in(args)
            answer = None
            try:
                answer = ask(*args)
            finally:
                with self._lock:
                    self.under_way[name] -= 1
                    self.received[name] += _bytes_in(answer)
            return answer

        return call


def _bytes_in(value: Any) -> int:
    """Those of all texts in a value."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return sum(map(_bytes_in, value)) if isinstance(value, (list, tuple)) else 0
