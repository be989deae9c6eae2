"""Several bodies in one: what a rank passes on for those behind it."""

from __future__ import annotations

from array import array
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EQUAL, OTHER = b"=", b"*"
"""The first byte of a bundle: their number and one copy follow, or their lengths and all bodies."""

COUNT = 8
"""Bytes of a number in it."""


def numbers(values: Iterable[int]) -> bytes:
    """Sizes as a body."""
    return array("q", values).tobytes()


def numbers_in(body: bytes) -> list[int]:
    """The sizes that a body holds."""
    return array("q", body).tolist()


def bundled(bodies: Sequence[bytes]) -> bytes:
    """All bodies in one; once, where they are equal."""
    count = numbers([len(bodies)])
    if len(set(bodies)) == 1:
        return EQUAL + count + bodies[0]
    return b"".join([OTHER, count, numbers(map(len, bodies)), *bodies])


def unbundled(bundle: bytes) -> list[bytes]:
    """The bodies that ``bundled`` has made one."""
    start = len(OTHER) + COUNT
    [count] = numbers_in(bundle[len(OTHER) : start])
    if bundle.startswith(EQUAL):
        return [bundle[start:]] * count
    begin = start + COUNT * count
    ends = list(accumulate(numbers_in(bundle[start:begin]), initial=begin))
    return [bundle[start:end] for start, end in pairwise(ends)]
