"""Huge pages: asked for without losing the user's own wishes, and harmless where there are none."""

from __future__ import annotations

import mmap

import pytest

from allranks._system import huge_pages


def test_the_users_tunables_are_kept() -> None:
    ours = huge_pages.OF_THE_ALLOCATOR
    assert huge_pages.wanted({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": ours}
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
    assert huge_pages.wanted(theirs)["GLIBC_TUNABLES"] == f"{ours}:glibc.malloc.check=1"


@pytest.mark.skipif(not huge_pages.SIZE.exists(), reason="a system without huge pages")
def test_memory_moves_whole() -> None:
    size = int(huge_pages.SIZE.read_text())
    memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"kept" * size)
    addresses = huge_pages.candidates()
    assert addresses
    assert all(address % size == 0 for address in addresses)
    for address in addresses:
        huge_pages.collapse(address)
    assert memory[:] == b"kept" * size


def test_a_system_without_huge_pages(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(huge_pages, "SIZE", tmp_path / "none")
    assert huge_pages.candidates() == []
