"""Where a loaded library keeps the address of a function that it calls, after elf(5)."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import platform

MACHINES = ("x86_64", "aarch64")
"""Where glibc keeps a library's tables by their addresses in memory, and numbers are as below."""

RTLD_DI_LINKMAP = 2
"""Asks dlinfo(3) where a library is loaded."""

DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_JMPREL = 0, 2, 5, 6, 23
"""Entries of a library's dynamic section: its end, and where the tables are."""


class _LinkMap(ctypes.Structure):
    _fields_ = (
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("dynamic", ctypes.c_void_p),
    )


class _Dynamic(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int64), ("value", ctypes.c_uint64))


class _Relocation(ctypes.Structure):
    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("symbol", ctypes.c_uint32),
        ("addend", ctypes.c_int64),
    )


class _Symbol(ctypes.Structure):
    _fields_ = (("name", ctypes.c_uint32), ("rest", ctypes.c_ubyte * 20))


def slot(library: str, function: str) -> ctypes.c_size_t | None:
    """The word, made writable, through which a loaded library calls a function of another one.

    Returns:
        None where the library is not loaded, or does not call the function by such a word, and
        where the dynamic linker is not one that is known here.
    """
    if platform.machine() not in MACHINES or platform.libc_ver()[0] != "glibc":
        return None
    try:
        loaded = ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return None
    where = ctypes.POINTER(_LinkMap)()
    handle = ctypes.c_void_p(loaded._handle)  # noqa: SLF001 - documented in ctypes' manual
    if ctypes.CDLL(None).dlinfo(handle, RTLD_DI_LINKMAP, ctypes.byref(where)):
        return None
    offset = _offset(_tables(where.contents.dynamic), function.encode())
    return _writable(where.contents.base + offset) if offset is not None else None


def _tables(dynamic: int) -> dict[int, int]:
    entries = ctypes.cast(dynamic, ctypes.POINTER(_Dynamic))
    numbered = map(entries.__getitem__, itertools.count())
    named = itertools.takewhile(lambda entry: entry.tag != DT_NULL, numbered)
    return {entry.tag: entry.value for entry in named}


def _offset(tables: dict[int, int], function: bytes) -> int | None:
    """Where the dynamic linker was told to put the function's address."""
    count = tables.get(DT_PLTRELSZ, 0) // ctypes.sizeof(_Relocation)
    if not count:
        return None
    symbols = ctypes.cast(tables[DT_SYMTAB], ctypes.POINTER(_Symbol))
    for relocation in (_Relocation * count).from_address(tables[DT_JMPREL]):
        if ctypes.string_at(tables[DT_STRTAB] + symbols[relocation.symbol].name) == function:
            return int(relocation.offset)
    return None


def _writable(address: int) -> ctypes.c_size_t | None:
    page = ctypes.c_void_p(address & -mmap.PAGESIZE)
    size = ctypes.c_size_t(mmap.PAGESIZE)
    if ctypes.CDLL(None).mprotect(page, size, mmap.PROT_READ | mmap.PROT_WRITE):
        return None
    return ctypes.c_size_t.from_address(address)
