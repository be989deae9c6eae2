"""The store of a world whose parent is ours: a file that only its ranks can reach.

torch's own FileStore looks for a key every 10 ms only, which would be a third of the time that a
small world takes to come up; where its directory is gone it tries for five minutes; and a rank
that is killed while it writes leaves a half record there, at which all others spin for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._rendezvous.store_file import StoreFile

if TYPE_CHECKING:
    import threading

    import torch.distributed as dist


def private_store(path: str, ended: threading.Event | None = None) -> dist.Store:
    """The ranks' common store in a file.

    Args:
        path: of the file, on a local disk or in memory.
        ended: set when nobody shall wait for a key any longer. A thread of gloo's that does so at
            the interpreter's end would abort the process.

    Raises:
        OSError: the file cannot be opened.
    """
    from allranks._rendezvous.file_backed_store import FileBackedStore

    return FileBackedStore(StoreFile(path), path, ended)
