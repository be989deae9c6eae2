"""The store of a world whose parent is ours: a file that only its ranks can reach."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._waiting import Deadline

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from datetime import timedelta

    import torch.distributed as dist

FIRST_LOOK = 0.0002
LONGEST_PAUSE = 0.05


def private_store(  # noqa: C901 - all of it is the class
    path: str, world_size: int, ended: threading.Event | None = None
) -> dist.Store:
    """The ranks' common store in a file.

    torch's own FileStore looks for a key every 10 ms only, which would be a third of the time
    that a small world takes to come up.

    Args:
        path: of the file, on a local disk or in memory.
        world_size: how many ranks share it; the last one removes it.
        ended: set when nobody shall wait for a key any longer. A thread of gloo's that does so at
            the interpreter's end would abort the process.

    Raises:
        OSError: the file cannot be opened.
    """
    import torch.distributed as dist

    # FileStore tries for 5 minutes where the directory is gone, and holds the interpreter's lock.
    with Path(path).open("ab"):
        pass

    class PrivateStore(dist.Store):
        """A FileStore that is looked at often at first, and seldom later."""

        def __init__(self) -> None:
            super().__init__()
            self._opened = dist.FileStore(os.fsencode(path), world_size)  # type: ignore[arg-type]
            self._held = Path(path).open("rb")  # noqa: SIM115 - see __del__

        def __del__(self) -> None:
            self._held.close()

        @property
        def _file(self) -> dist.Store:
            # FileStore would make a new file, or try for minutes where the directory is gone too.
            if not os.fstat(self._held.fileno()).st_nlink:
                raise dist.DistNetworkError(f"{path} was removed")
            return self._opened

        def get(self, key: str) -> bytes:
            self.wait([key])
            return self._file.get(key)

        def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
            default: timedelta = self.timeout  # type: ignore[attr-defined]  # not in the stubs
            seconds = (timeout or default).total_seconds()
            end, pause = Deadline.after(seconds), FIRST_LOOK
            while not self.check(list(keys)):
                if end.passed or (ended and ended.is_set()):
                    raise dist.DistStoreError(f"{keys} did not come within {seconds:g} s ({path})")
                time.sleep(pause)
                pause = min(pause * 1.2, LONGEST_PAUSE)

        def set(self, key: str, value: str) -> None:
            self._file.set(key, value)

        def add(self, key: str, amount: int) -> int:
            return self._file.add(key, amount)

        def compare_set(self, key: str, expected: str, desired: str) -> bytes:
            return self._file.compare_set(key, expected, desired)

        def check(self, keys: list[str]) -> bool:
            return self._file.check(keys)

        def delete_key(self, key: str) -> bool:
            return self._file.delete_key(key)

        def num_keys(self) -> int:
            return self._file.num_keys()

        def clone(self) -> PrivateStore:
            return self  # A file has no connection that one thread could hold from another.

        def has_extended_api(self) -> bool:
            return False

    return PrivateStore()
