"""What a rank starts inherits its variables, and with them its place: it is no rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allranks._launchers.detect import told_by
from allranks._process_group import environment
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from allranks._launchers.world import World

RANK_PROCESS = "ALLRANKS_RANK_PROCESS"
"""The variable in which a rank that is up says which process it is, and its place."""


def leave_word(world: World) -> None:
    """Let the processes that this rank starts know whose variables they have."""
    environment.put(RANK_PROCESS, _word(os.getpid(), world))


def refuse_inherited_place(found: World) -> None:
    """Raise a ``DetectionError`` where a rank that is up started this process, with its place."""
    told = os.environ.get(RANK_PROCESS, "")
    pid = told.partition(" ")[0]
    if not pid.isdecimal() or int(pid) == os.getpid() or told != _word(int(pid), found):
        return
    theirs = [name for name in told_by(found.launcher) if name in os.environ]
    raise DetectionError(
        f"setup: this process (pid {os.getpid()}) is a child of rank {found.rank} (pid {pid}), "
        "which has called setup(), and has inherited its place. If it was spawned by "
        "multiprocessing, put what the script does under `if __name__ == '__main__':`. For a world "
        f"of its own, start it without {', '.join(theirs)}.",
        {name: os.environ[name] for name in theirs},
    )


def _word(pid: int, world: World) -> str:
    return f"{pid} is rank {world.rank} of {world.world_size} of {world.job}"
