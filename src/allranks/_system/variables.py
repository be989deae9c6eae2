"""The environment variables: which are ours, which of others we heed, what only looks like one."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PREFIX = "ALLRANKS_"

BIND = "ALLRANKS_BIND"

OF_USERS = {
    BIND: 'As `setup(bind=...)`, where the program does not say it: "numa".',
    "ALLRANKS_CHECK": (
        "As `setup(check=...)`, where the program does not say it: 1 verifies bare tensors too, "
        '"lines" also compares the lines that make the calls.'
    ),
    "ALLRANKS_HOST_SOCKETS": (
        "0: ranks of one host use no sockets of their own. They meet one by one, headers travel by "
        "gloo, and `allranks status` finds no rank."
    ),
    "ALLRANKS_JOB": (
        "A text that the ranks of a job share and other jobs do not have, where the launcher "
        "gives nothing that tells two jobs apart."
    ),
    "ALLRANKS_LOG_DIR": (
        "A directory in which each rank keeps what it did last, where its threads stood, and the "
        "verdict."
    ),
    "ALLRANKS_PEER_MEMORY": "0: no rank reads large data from the memory of another on its host.",
    "ALLRANKS_PORT_RANGE": (
        "The only ports that may be listened on, as in 20000-20100: by the store, by gloo and NCCL."
    ),
    "ALLRANKS_REPORT": "Seconds between two lines that tell which ranks come last; 0 for never.",
    "ALLRANKS_STALL_AFTER": (
        "Seconds, as `setup(stall_after=...)`, where the program does not say it."
    ),
    "ALLRANKS_STATUS": "0: `allranks status` and `allranks dump` get no answer from this job.",
    "ALLRANKS_WATCH": (
        "0: no watch. A failure is noticed by torch alone, and `allranks status` finds no rank."
    ),
}
"""What a user may set, and what it does."""

OF_RANKS = {
    "ALLRANKS_RANK": "The rank.",
    "ALLRANKS_RANK_PROCESS": "Which process is a rank that is up, so that its children are none.",
    "ALLRANKS_RUN_ID": "What tells this job from all others.",
    "ALLRANKS_STORE": "The file in which the ranks meet.",
    "ALLRANKS_WORLD_SIZE": "How many ranks there are.",
}
"""What a rank gets from whoever starts it, and leaves to its children."""


_OF_PLACE = (
    "The place of this rank, as torchrun tells it. Read where no launcher says more. Where several "
    "ranks are up, set unless it is set, for other libraries."
)
_AT_TERMINAL = "Set for the ranks of `allranks run` at a terminal, so that rich draws bars there."
_GLOO_BATCHES = "Set to 1 in worlds of middling size, unless it is set: gloo connects in batches."

OF_OTHERS = {
    "COLUMNS": _AT_TERMINAL,
    "CUDA_VISIBLE_DEVICES": "Shown in errors, and by `allranks doctor`; CUDA obeys it.",
    "CURRRENT_DEVICE_TYPE": (
        "Set to the type of device that was chosen, such as `cuda`; a program may set it instead."
    ),
    "GLIBC_TUNABLES": (
        "Amended for the process from which `launch` and the pytest plugin fork their ranks: its "
        "memory lies in huge pages."
    ),
    "GLOO_ENABLE_RANK_AS_SEQUENCE_NUMBER": _GLOO_BATCHES,
    "GLOO_ENABLE_STORE_V2_API": _GLOO_BATCHES,
    "GLOO_SOCKET_IFNAME": (
        "The interface that gloo uses, and our own sockets between hosts. Unless it is set, set to "
        "the one that leads to rank 0's store; on one host, to loopback."
    ),
    "GROUP_RANK": _OF_PLACE,
    "GROUP_WORLD_SIZE": _OF_PLACE,
    "LOCAL_RANK": _OF_PLACE,
    "LOCAL_WORLD_SIZE": _OF_PLACE,
    "MASTER_ADDR": ("The address of rank 0. Where several ranks are up, set unless it is set."),
    "MASTER_PORT": (
        "The port at which rank 0 is looked for, and no other is tried. Where several ranks are "
        "up, set unless it is set: a port that follows from the job's identity."
    ),
    "NCCL_MULTI_RANK_GPU_ENABLE": (
        "Anything but 0: two ranks that use one GPU over NCCL are no error of ours."
    ),
    "NCCL_SOCKET_IFNAME": "Checked by `allranks doctor`; NCCL obeys it.",
    "NODE_RANK": _OF_PLACE,
    "OMP_NUM_THREADS": (
        "The threads of each rank. `allranks run`, `launch` and the pytest plugin set it to a fair "
        "share of the CPUs, unless it is set; where it is, `bind` changes no number of threads."
    ),
    "PMI_FD": "MPICH's connection, handed to the process that asks MPI where rank 0 runs.",
    "RANK": _OF_PLACE,
    "TMPDIR": "Checked by `allranks doctor`; Python obeys it.",
    "TORCH_FR_BUFFER_SIZE": (
        "How many calls torch remembers, so that a verdict can name them. Set, unless it or "
        "TORCH_NCCL_TRACE_BUFFER_SIZE is set: reading torch's default takes four times as long."
    ),
    "TORCH_GLOO_LAZY_INIT": (
        "Set to 1 in large worlds, unless it is set: gloo connects two ranks when they first talk."
    ),
    "TORCH_NCCL_TRACE_BUFFER_SIZE": "The older name of TORCH_FR_BUFFER_SIZE.",
    "TTY_COMPATIBLE": _AT_TERMINAL,
    "TTY_INTERACTIVE": _AT_TERMINAL,
    "WORLD_SIZE": _OF_PLACE,
}
"""What others have named, and allranks reads or sets; launchers' own are in their files."""


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
