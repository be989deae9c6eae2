"""Where a loaded library keeps the address of a function that it calls, after elf(5)."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINES = ("x86_64", "aarch64")
"""The supported machines: 64 bits, little-endian, with the relocations below."""

RTLD_DI_LINKMAP = 2
"""Asks dlinfo(3) where a library is loaded."""

DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 0, 2, 5, 6, 7, 8, 23
"""Entries of a library's dynamic section: its end, and where the tables are."""

RELOCATION = [("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")]
SYMBOL_SIZE = 24

ADDRESSES_OF_FUNCTIONS = (6, 7, 1025, 1026)
"""The kinds of relocations that put a function's address: GLOB_DAT, JUMP_SLOT; of both machines."""


class _LinkMap(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("dynamic", ctypes.c_void_p),
    )


class _Dynamic(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int64), ("value", ctypes.c_uint64))


def slots(library: str, function: str) -> list[ctypes.c_size_t]:
    """The words, made writable, through which a loaded library calls a function of another one.

    Returns:
        None of them where the library is not loaded, or does not call the function by such words,
        and where the dynamic linker is not one that is known here.
    """
    if platform.machine() not in MACHINES or platform.libc_ver()[0] != "glibc":
        return []
    try:
        loaded = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return []
    where = ctypes.POINTER(_LinkMap)()
    handle = ctypes.c_void_p(loaded._handle)  # noqa: SLF001 - documented in ctypes' manual
    if ctypes.CDLL(None).dlinfo(handle, RTLD_DI_LINKMAP, ctypes.byref(where)):
        return []
    found = _addresses(where.contents, function.encode())
    return [ctypes.c_size_t.from_address(address) for address in found if _make_writable(address)]


def _addresses(where: _LinkMap, function: bytes) -> Iterator[int]:
    """Where the dynamic linker was told to put the function's address."""
    tables = _tables(where)
    for begin, size in ((DT_JMPREL, DT_PLTRELSZ), (DT_RELA, DT_RELASZ)):
        for relocation in _relocations(tables.get(begin, 0), tables.get(size, 0)):
            entry = tables[DT_SYMTAB] + SYMBOL_SIZE * int(relocation["symbol"])
            name = ctypes.c_uint32.from_address(entry).value
            if ctypes.string_at(tables[DT_STRTAB] + name) == function:
                yield where.base + int(relocation["offset"])


def _tables(where: _LinkMap) -> dict[int, int]:
    """What the dynamic section says; addresses as they are in memory."""
    entries = ctypes.cast(where.dynamic, ctypes.POINTER(_Dynamic))
    numbered = map(entries.__getitem__, itertools.count())
    named = itertools.takewhile(lambda entry: entry.tag != DT_NULL, numbered)
    found = {entry.tag: entry.value for entry in named}
    for tag in {DT_STRTAB, DT_SYMTAB, DT_RELA, DT_JMPREL} & found.keys():
        if (
            found[tag] < where.base
        ):  # glibc leaves them as they are in a section that it may not write.
            found[tag] += where.base
    return found


def _relocations(begin: int, size: int) -> Any:
    import numpy as np

    if not size:
        return ()
    memory: Any = (ctypes.c_char * size).from_address(begin)
    table = np.frombuffer(memory, dtype=RELOCATION)
    return table[np.isin(table["kind"], ADDRESSES_OF_FUNCTIONS)]


def _make_writable(address: int) -> bool:
    page = ctypes.c_void_p(address & -mmap.PAGESIZE)
    size = ctypes.c_size_t(mmap.PAGESIZE)
    return not ctypes.CDLL(None).mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE)
