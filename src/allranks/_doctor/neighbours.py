"""Whether ranks of a host can read each other's memory, as large data between them travel best.

Debuggers such as py-spy ask the system for the same right.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._doctor.checks import OK, WARNING, Check, merged
from allranks._system import peer_memory, variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._doctor.checks import Place
    from allranks._system.peer_memory import MemoryProbe

YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
STATUS = Path("/proc/self/status")

WHAT = "peer memory"


@dataclass(frozen=True)
class Neighbour:
    """How a rank stands to the next one of its host.

    Attributes:
        alone: whether there is no other one.
        readable: whether it has read the other's memory.
        together: whether both see each other's processes.
        off: whether the user has turned this off.
        yama: Yama's ptrace_scope; 0 where there is none.
        filtered: whether a filter of system calls is set on this process.
    """

    alone: bool = True
    readable: bool = False
    together: bool = False
    off: bool = False
    yama: int = 0
    filtered: bool = False


def looked_at(probe: MemoryProbe | None, where: str) -> Neighbour:
    """The next rank of this host, by trying to read its memory.

    Args:
        probe: that rank's; None where it has told none.
        where: within what a process's id means one process here.
    """
    if probe is None:
        return Neighbour()
    return Neighbour(
        alone=False,
        readable=peer_memory.readable(probe, where),
        together=probe.where == where,
        off=variables.is_off(peer_memory.SWITCH) or not probe.where,
        yama=_yama(),
        filtered=_is_filtered(),
    )


def _yama() -> int:
    with suppress(OSError, ValueError):
        return int(YAMA.read_text())
    return 0


def _is_filtered() -> bool:
    with suppress(OSError):
        return "\nSeccomp:\t2\n" in STATUS.read_text()
    return False


def neighbour_rows(of: Mapping[Place, Neighbour]) -> list[Check]:
    """A row on peer memory; none where no host has two ranks."""
    return merged({place: (_row(one),) for place, one in of.items() if not one.alone})


def _row(one: Neighbour) -> Check:
    if one.off:
        return Check(WHAT, OK, f"not used, as {peer_memory.SWITCH} says")
    if one.readable:
        return Check(WHAT, OK, "ranks of a host read each other's memory")
    why, remedy = _reason(one)
    seen = (
        f"process_vm_readv is refused, {why}; large data take the sockets, and py-spy is shut out"
    )
    return Check(WHAT, WARNING, seen, remedy)


def _reason(one: Neighbour) -> tuple[str, str]:
    if not one.together:
        return "since the ranks are in containers apart", "docker run --pid=host --ipc=host ..."
    if one.yama:
        return f"by Yama's ptrace_scope={one.yama}", "sysctl -w kernel.yama.ptrace_scope=0"
    if one.filtered:
        return "by a filter of system calls", "docker run --cap-add=SYS_PTRACE ..."
    return "by the system", "setpriv --ambient-caps=+sys_ptrace --inh-caps=+sys_ptrace ..."
