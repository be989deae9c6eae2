"""Streams of random numbers that have nothing in common, each from a seed and a key.

numpy's SeedSequence hashes the seed and the key, so that seeds and ranks next to each other give
unrelated streams; with ``seed + rank`` rank 1 of seed 0 would draw what rank 0 of seed 1 draws.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EACH_RANK, ALL_RANKS, WORKER, SHUFFLE = range(4)
"""What a stream is for, the first number of its key: streams for different uses differ, too."""

SEED_WORDS = 8
"""Words of 32 bits that seed a Mersenne Twister."""


def stream(seed: int, *key: int) -> np.random.SeedSequence:
    """The stream for a seed of any size and a key; a pure function."""
    import numpy as np

    return np.random.SeedSequence(seed, spawn_key=key)


def seed_libraries(parent: np.random.SeedSequence) -> int:
    """Seed Python's, numpy's and torch's generators, each from a stream of its own.

    Args:
        parent: a stream that was just made: its children are counted.

    Returns:
        torch's seed, of 63 bits.
    """
    import numpy as np
    import torch

    for_python, for_numpy, for_torch = parent.spawn(3)
    # First: it fails where a program has replaced numpy's global generator.
    np.random.seed(for_numpy.generate_state(SEED_WORDS))  # noqa: NPY002 - users call the global one
    words = for_python.generate_state(SEED_WORDS)
    random.seed(int.from_bytes(words.astype("<u4").tobytes(), "little"))
    seed = int(for_torch.generate_state(1, np.uint64)[0]) >> 1
    torch.manual_seed(seed)
    return seed


def permutation(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The numbers 0..length-1 in an order that follows from the seed and the epoch alone.

    The same on all hosts and in all versions: numpy promises that of raw streams, and not of its
    own permutations.
    """
    import numpy as np

    source: Any = np.random.PCG64(stream(seed, SHUFFLE, epoch))
    order: NDArray[np.int64] = np.argsort(source.random_raw(length), kind="stable")
    return order
