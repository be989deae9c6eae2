"""What is to be measured, and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "broadcast",
    "reduce_scatter",
    "all_to_all",
    "objects",
)
"""What can be measured, in this order."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}

SIZE = re.compile(r"(\d+)\s*([KMG]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True)
class Plan:
    """What is to be measured; the same on all ranks.

    Attributes:
        collectives: the names of the collectives.
        least: bytes of the smallest call.
        most: bytes of the largest call.
        factor: by how much a size is larger than the one before.
        seconds: how long one collective is measured at one size, as far as its calls allow.
        pairs: whether each rank is measured with every other.
    """

    collectives: tuple[str, ...]
    least: int
    most: int
    factor: int
    seconds: float
    pairs: bool

    def sizes(self) -> list[int]:
        """The sizes in bytes, rising."""
        sizes = [self.least]
        while sizes[-1] * self.factor <= self.most:
            sizes.append(sizes[-1] * self.factor)
        return sizes


def bytes_of(text: str) -> int:
    """The number of bytes that a text such as ``4``, ``64K``, ``64KB`` or ``256MiB`` names.

    As in nccl-tests, K, M and G are powers of 1024.

    Raises:
        ValueError: it names none, or none above 0.
    """
    found = SIZE.fullmatch(text.strip())
    number = int(found[1]) * UNITS[found[2].upper()] if found else 0
    if number < 1:
        raise ValueError(f"{text!r} is no size; write bytes, or a number and K, M or G, as in 64K")
    return number
