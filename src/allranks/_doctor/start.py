"""How the job was started, and whether its ranks meet: rows, and what to type where they do not."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check
from allranks._launchers import env
from allranks._launchers.detect import told_by
from allranks._rendezvous import ports
from allranks._rendezvous.tcp_store import PATIENCE
from allranks._system import sockets, variables
from allranks._system.typed_json import plain
from allranks._system.words import counted, named
from allranks.errors import (
    DetectionError,
    DeviceError,
    DuplicateRankError,
    MissingRanksError,
    WorldMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from allranks._doctor.checks import Place
    from allranks._launchers.world import World
    from allranks._rendezvous.meeting import Meeting
    from allranks._rendezvous.plan import RendezvousPlan
    from allranks.errors import AllranksError

HAND_MADE = (*env.NAMES, "MASTER_ADDR", "MASTER_PORT")
"""Variables that a user may have set beside a launcher's."""

RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
"""Where a process that cannot tell its rank may still see that it is not the first one."""

HELD, DEVICES = "is held by", "devices visible"
"""Words of ours for a port that somebody has, and for ranks that are more than GPUs."""

AS_MANY_AS_GPUS = "torchrun --nproc-per-node=gpu ..."

QUOTED = re.compile(r"`([^`]+)`")
"""A command in a sentence of ours."""


@dataclass(frozen=True)
class Start:
    """How a process was started.

    Attributes:
        launcher: by what.
        world: this rank's place, in words.
        told_by: the variables that tell so, with their values.
        doubt: why the job may not have the ranks that are meant, or "".
        misspelt: a sentence on each variable that looks like one of allranks.
    """

    launcher: str
    world: str
    told_by: tuple[str, ...]
    doubt: str
    misspelt: tuple[str, ...]


def own_start(world: World) -> Start:
    """This process's."""
    names = [name for name in told_by(world.launcher) if name in os.environ]
    told = tuple(f"{name}={plain(os.environ[name]):.60}" for name in names)
    place = f"rank {world.rank} of {world.world_size}"
    misspelt = tuple(variables.misspelt(os.environ))
    return Start(world.launcher, place, told, world.doubt, misspelt)


def start_rows(of: Mapping[Place, Start]) -> list[Check]:
    """Rows on the launcher, as the lowest rank knows it, and on variables."""
    first = of[min(of)]
    told = ", ".join(first.told_by)
    why = f"as {told} tell" if told else "no launcher's variable is set"
    row = Check("launcher", OK, f"{first.launcher}, {first.world}: {why}")
    if first.doubt:
        command = _quoted(first.doubt).replace("python ...", "allranks doctor")
        row = Check("launcher", WARNING, first.doubt, command)
    said = dict.fromkeys(line for start in of.values() for line in start.misspelt)
    return [row, *(Check("variables", WARNING, line, _unset(line)) for line in said)]


def _quoted(text: str) -> str:
    """The first command in a sentence of ours; "" if there is none."""
    found = QUOTED.search(text)
    return found[1] if found else ""


def _unset(line: str) -> str:
    return f"unset {next(iter(re.findall(variables.PREFIX + '[A-Z_0-9]*', line)))}"


def undetected(error: AllranksError) -> Check:
    """The row of a process that does not know who it is."""
    found = getattr(error, "variables", {}) if isinstance(error, DetectionError) else {}
    by_hand = [name for name in HAND_MADE if found.get(name) is not None]
    remedy = f"unset {' '.join(by_hand or found)}" if found else "allranks env"
    return Check("launcher", FAILURE, str(error), remedy)


def looks_first() -> bool:
    """Whether nothing in the environment says that another process is rank 0."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def met(world: World, meeting: Meeting | None, seconds: float) -> Check:
    """The row of a rendezvous that came about."""
    if meeting is None:
        return Check("rendezvous", OK, "one rank, which has no other to meet")
    ranks = f"{counted(world.world_size, 'rank')} on {counted(world.num_nodes or 1, 'host')}"
    return Check("rendezvous", OK, f"{ranks} met in {seconds:.2f} s, at {meeting.place}")


def unmet(error: AllranksError, world: World, plan: RendezvousPlan | None) -> Check:
    """The row of one that did not, in the error's words.

    Args:
        error: what was raised.
        world: this process's.
        plan: how the ranks were to meet; None where that is what failed.
    """
    return Check("rendezvous", FAILURE, str(error), _remedy(error, world, plan))


def _remedy(error: AllranksError, world: World, plan: RendezvousPlan | None) -> str:
    if isinstance(error, MissingRanksError) and error.missing and 0 not in error.missing:
        return _with_as_many(error.missing, world)
    for kind, remedy in (
        (DuplicateRankError, f"export RANK=...  # another one of 0-{world.world_size - 1} in each"),
        (WorldMismatchError, f"export WORLD_SIZE={world.world_size}  # the same on all ranks"),
        (DeviceError, AS_MANY_AS_GPUS),
    ):
        if isinstance(error, kind):
            return remedy
    return _as_told(str(error), world, plan)


def _as_told(text: str, world: World, plan: RendezvousPlan | None) -> str:
    """What the words of an error of no kind of its own lead to."""
    if DEVICES in text:
        return AS_MANY_AS_GPUS
    if HELD in text and world.rank == 0:
        return f"export MASTER_PORT={_free_port()}  # on all ranks"
    if command := _quoted(text):
        return command
    if plan is None or not plan.ports or world.rank == 0:
        return "allranks env"
    return _on_the_way(plan.hosts[0], plan.ports[0])


def _on_the_way(host: str, port: int) -> str:
    """What stands between this rank and rank 0: a name, a firewall, or somebody at its port."""
    if not sockets.addresses_of(host):
        return "export MASTER_ADDR=...  # an address that `hostname -I` tells on rank 0's host"
    try:
        sockets.connect(host, port, PATIENCE).close()
    except ConnectionRefusedError:
        pass
    except OSError:
        return f"iptables -I INPUT -p tcp --dport {port} -j ACCEPT  # on {host}, as root"
    return f"ss -ltnp 'sport = :{port}'  # on {host}: does rank 0 listen there, or another?"


def _with_as_many(missing: Sequence[int], world: World) -> str:
    """A world of those that came; or where those that did not are to be looked for."""
    there = world.world_size - len(missing)
    if world.launcher == "env" and min(missing) == there:
        return f"export WORLD_SIZE={there}  # or start {named(missing)}"
    if world.launcher == "slurm":
        return f"srun -n {world.world_size} --kill-on-bad-exit=0 allranks doctor"
    return f"RANK={min(missing)} WORLD_SIZE={world.world_size} ... allranks doctor  # on its host"


def _free_port() -> int:
    among = ports.allowed(os.environ)
    with suppress(OSError), ports.listen_on_any("", among) as listener:
        return sockets.port_of(listener)
    return sockets.free_port()


def is_rank_0_s_word(error: AllranksError) -> bool:
    """Whether rank 0 raises the same, and tells it."""
    if isinstance(error, MissingRanksError):
        return bool(error.missing) and 0 not in error.missing
    return isinstance(error, (WorldMismatchError, DuplicateRankError))
