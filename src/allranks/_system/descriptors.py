"""How many files and connections this process may have open at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def make_room(needed: int) -> int | None:
    """Raise the soft limit where it is below what is needed, as far as the hard one lets it.

    Args:
        needed: descriptors in all; what the soft limit allowed before is added to them, for the
            program's own use.

    Returns:
        How many this process may have now; None where there is no limit, or none to be seen.
    """
    try:
        import resource
    except ImportError:
        return None  # Windows.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None if soft == resource.RLIM_INFINITY else soft
    wanted = needed + soft
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def in_use() -> int | None:
    """How many are open; None where that cannot be told, or where none is left to look with."""
    try:
        return len(list(Path("/proc/self/fd").iterdir())) - 1
    except OSError:
        return None
