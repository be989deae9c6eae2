"""The threads of OpenBLAS, which numpy brings along: it reads their number when it is loaded.

A forked process has it from before the fork. OpenBLAS has a function for it, whose name depends on
the build; this finds it in the libraries that are loaded. Where none is found, nothing is changed.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)

_setters: list[Callable[[int], object]] = []


def find() -> None:
    """Look for it among the libraries that are loaded, before forks that call ``use``."""
    _setters.clear()
    for path in _loaded("openblas"):
        with suppress(OSError):
            library = ctypes.CDLL(path)
            found = next((name for name in NAMES if hasattr(library, name)), None)
            if found:
                _setters.append(getattr(library, found))


def use(threads: int) -> None:
    """Use so many threads from now on."""
    for setter in _setters:
        setter(threads)


def _loaded(part: str) -> set[str]:
    """The files of the libraries in this process whose names contain this."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines if part in line}
        return {path for path in paths if part in Path(path).name}
    return set()
