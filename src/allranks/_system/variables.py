"""The environment variables of allranks: which there are, and what only looks like one."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREFIX = "ALLRANKS_"

BIND = "ALLRANKS_BIND"

OF_USERS = (
    BIND,
    "ALLRANKS_CHECK",
    "ALLRANKS_HOST_SOCKETS",
    "ALLRANKS_JOB",
    "ALLRANKS_LOG_DIR",
    "ALLRANKS_PEER_MEMORY",
    "ALLRANKS_PORT_RANGE",
    "ALLRANKS_REPORT",
    "ALLRANKS_STALL_AFTER",
    "ALLRANKS_STATUS",
    "ALLRANKS_WATCH",
)
"""What a user may set."""

OF_RANKS = (
    "ALLRANKS_RANK",
    "ALLRANKS_RANK_PROCESS",
    "ALLRANKS_RUN_ID",
    "ALLRANKS_STORE",
    "ALLRANKS_WORLD_SIZE",
)
"""What a rank gets from whoever starts it, and leaves to its children."""


def is_off(name: str) -> bool:
    """Whether a variable that turns something off does so: 0, or false."""
    return os.environ.get(name, "").lower() in ("0", "false")


def number(name: str) -> float:
    """The number that a variable holds; 0.0 where it holds none, or is not set."""
    try:
        return float(os.environ.get(name, ""))
    except ValueError:
        return 0.0


def misspelt(names: Iterable[str]) -> Iterator[str]:
    """A sentence on each variable that begins like ours, and that nothing reads.

    Args:
        names: those that are set.
    """
    for name in sorted(names):
        if name.startswith(PREFIX) and name not in (*OF_USERS, *OF_RANKS):
            yield f"nothing reads {name}; {_nearest(name) or 'there are ' + ', '.join(OF_USERS)}"


def _nearest(name: str) -> str:
    """The question whether a variable was meant; "" if none is near."""
    ends = {known.removeprefix(PREFIX): known for known in OF_USERS}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), ends, n=1)
    return f"did you mean {ends[close[0]]}?" if close else ""
