"""A header on its way: what one rank tells of its call."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

HEAD = struct.Struct("<II16s")
"""The length of the body, what it is, and the digest of the call."""

FIRST_MESSAGE = 2048
"""Bytes of the first message: the head, and the body's beginning."""

FIRST_BODY = FIRST_MESSAGE - HEAD.size

NO_DIGEST = bytes(16)
"""In place of a digest, where there is nothing to be compared."""


class Frame(NamedTuple):
    """A header on its way.

    Attributes:
        kind: what the body is.
        digest: the digest of the call.
        body: what may differ between the ranks.
    """

    kind: int
    digest: bytes
    body: bytes


Answer = Callable[[Sequence[Frame]], tuple[int, bytes]]
"""Makes the answer to all headers, a kind and a body: the same, whichever rank makes it."""
