"""The ports at which the ranks of a job look for rank 0, by the job's identity. Pure."""

from __future__ import annotations

import hashlib
import random

DISTRIBUTED_PORT = 13356
"""The port at which ranks look for rank 0 first, where nothing carries a port to them."""

CANDIDATES = 16
UNASKED = range(10_000, 32_768)
"""Below the ephemeral ports of Linux, any of which an outgoing connection may hold."""


def candidates(job: str, among: range | None) -> tuple[int, ...]:
    """Ports to try in turn, the same on all ranks of a job, other ones for other jobs."""
    drawn = random.Random(hashlib.sha256(job.encode()).digest())
    if among is not None:
        return tuple(drawn.sample(among, min(CANDIDATES, len(among))))
    return (DISTRIBUTED_PORT, *drawn.sample(UNASKED, CANDIDATES - 1))


def own(job: str, among: range | None) -> int:
    """The one port for a job whose ranks cannot try several; other jobs hardly have it."""
    return candidates(job, among)[-1]
