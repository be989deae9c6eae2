"""Ranks that are forked from this process, and what each tells; for benchmarks of many."""

from __future__ import annotations

import json
import os
import resource
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def told_by_all(
    environs: Sequence[Mapping[str, str]], tell: Callable[[int], Any], *, quiet: bool = False
) -> list[Any]:
    """What each rank tells, once all have ended.

    Args:
        environs: the variables of each rank.
        tell: is called in each, with its number.
        quiet: whether what they write to their standard error is dropped.
    """
    children = [
        _forked(number, environ, tell, quiet=quiet) for number, environ in enumerate(environs)
    ]
    told = []
    for pid, pipe in children:
        with os.fdopen(pipe) as answers:
            told.append(json.loads(answers.read() or "{}"))
        os.waitpid(pid, 0)
    return told


def _forked(
    number: int, environ: Mapping[str, str], tell: Callable[[int], Any], *, quiet: bool
) -> tuple[int, int]:
    """A rank's process id, and where it tells."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.environ.update(environ)
            if quiet:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with os.fdopen(writer, "w") as told:
                told.write(json.dumps(tell(number)))
        except Exception:  # noqa: BLE001 - what called this goes on in the parent alone
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def cpu_of_children() -> float:
    """Seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sockets() -> int:
    """How many this process has."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # It may be closed by now.
            count += descriptor.is_socket()
    return count
