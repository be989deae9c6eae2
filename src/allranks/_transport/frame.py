"""A header on its way: what one rank tells of its call, or of the calls of those behind it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEAD = struct.Struct("<II16s")
"""The length of the body, what it is, and the digest of the call."""

FIRST_MESSAGE = 2048
"""Bytes of the first message: the head, and the body's beginning."""

FIRST_BODY = FIRST_MESSAGE - HEAD.size

NO_DIGEST = bytes(16)
"""In place of a digest, where there is nothing to be compared."""

OK, ERROR, SEND_DETAILS, BUNDLE = range(4)
"""What a frame means. OK: the body is this rank's data, or in an answer the result. ERROR: this
rank cannot make the call; in an answer, nobody can, and the body says why. SEND_DETAILS, in answers
only: calls differ, or a rank cannot make its call, so that every rank sends its call in words.
BUNDLE: the body holds the data of several ranks, all OK, and of one call."""


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


class Answer(NamedTuple):
    """How the headers of all ranks become one answer, which is the same whoever makes it.

    Attributes:
        finish: makes the answer, a kind and a body, of all headers in the group's order; or of
            fewer, in any order, where some were folded.
        fold: makes fewer bodies of several, in any order, so that ``finish`` answers the same; or
            returns them as they are. None where each is needed.
    """

    finish: Callable[[Sequence[Frame]], tuple[int, bytes]]
    fold: Callable[[list[bytes]], list[bytes]] | None = None


def differ(told: Sequence[Frame]) -> bool:
    """Whether a rank cannot make the call, or makes another one."""
    first = told[0].digest
    return any(one.digest != first or one.kind == ERROR for one in told)
