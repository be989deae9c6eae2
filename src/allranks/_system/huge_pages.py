"""Huge pages for a process that forks: each fork copies an entry for every page that is in use.

Torch fills some 200 MB. In pages of 2 MB instead of 4 KB, forking a rank and taking it down cost a
third (measured). Where the system knows no huge pages, nothing here does anything.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TUNABLES, OF_THE_ALLOCATOR = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
MADV_COLLAPSE = 25


def wanted(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment with which a program's allocator uses huge pages (glibc 2.35 on)."""
    theirs = environ.get(TUNABLES)
    return {**environ, TUNABLES: f"{OF_THE_ALLOCATOR}:{theirs}" if theirs else OF_THE_ALLOCATOR}


def candidates() -> list[int]:
    """The addresses at which this process's memory could lie in huge pages."""
    found: list[int] = []
    with suppress(OSError):
        size = int(SIZE.read_text())
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, flags, _, _, _, *name = line.split()
            if flags == "rw-p" and name in ([], ["[heap]"]):
                start, end = (int(text, 16) for text in addresses.split("-"))
                found += range(-(-start // size) * size, end - size + 1, size)
    return found


def collapse(address: int) -> None:
    """Move what lies at an address into one huge page, where that can be done (Linux 6.1 on)."""
    length = ctypes.c_size_t(int(SIZE.read_text()))
    _libc().madvise(ctypes.c_void_p(address), length, MADV_COLLAPSE)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
