"""One rank comes up: who it is, where the others are, its device, its process group."""

from __future__ import annotations

import os
import platform
import socket
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from allranks import (
    _alarm,
    _bind,
    _devices,
    _environ,
    _flight,
    _groups,
    _mpi,
    _ports,
    _processes,
    _sockets,
)
from allranks._bulletin import UP, unless_lost
from allranks._headers import CHECK, checking
from allranks._lookout import Post
from allranks._plan import MPI, Plan, nth, plan
from allranks._record import Layout, Record
from allranks._release import __version__
from allranks._rendezvous import Meeting, Route, meet
from allranks._rollcall import LINGER, RollCall
from allranks._settings import DEFAULT_STALL_AFTER, Settings
from allranks._terminal import tell
from allranks._unconnected import GLOO_INTERFACE, lost, what_gloo_lacked
from allranks._waiting import Abandonable, Deadline, StillRunning
from allranks._watch import Watch
from allranks._world import World, detect
from allranks.errors import ConfigError, DeviceError, PeerFailedError, RendezvousError

if TYPE_CHECKING:
    from collections.abc import Mapping

GLOO_LAZY = "TORCH_GLOO_LAZY_INIT"
WATCH = "ALLRANKS_WATCH"
STALL_AFTER = "ALLRANKS_STALL_AFTER"

LAZY_PAIRS = 1024
"""Ranks from which on gloo connects a pair only when it is used: N - 1 sockets a rank else."""


_meetings = 0
"""How many stores this process has met in, the same on all ranks."""


@dataclass
class State:
    """What ``setup`` did, for ``cleanup`` to undo.

    Attributes:
        settings: what was asked for.
        world: what came of it.
        meeting: where the ranks met; None in a world of one, and where other code made the group.
        watch: the watch, or None.
        rank_0: rank 0's record; None on rank 0, and where there was no roll call.
        ending: how this rank leaves, for the others.
        failed: whether an exception has left the session.
        pid: this process; what it forks is no rank.
    """

    settings: Settings
    world: World
    meeting: Meeting | None = None
    watch: Watch | None = None
    rank_0: Record | None = None
    ending: str = "its program ended"
    failed: bool = False
    pid: int = field(default_factory=os.getpid)


def refuse_unknown_backend(backend: str | None) -> None:
    """A backend is a name, or a list of device:name."""
    if backend is None:
        return
    import torch.distributed as dist

    for part in backend.lower().split(","):
        name = part.rpartition(":")[2]
        if not dist.is_backend_available(name):
            known = ", ".join(n for n in dist.Backend.backend_list if dist.is_backend_available(n))
            raise ConfigError(
                f"distributed_backend={backend!r}: this build of torch has no {name!r}; it has "
                f"{known}. Leave it out to let it follow the device."
            )


def verify_as_asked(wanted: Settings) -> None:
    """Verify bare tensors from now on, where the settings say so."""
    if wanted.check is not None:
        _environ.put(CHECK, str(wanted.check).lower())


def _detected(wanted: Settings) -> World:
    """The detected world, with what the settings add and where they do not contradict it."""
    ignored = ("slurm",) if wanted.submit is False else ()
    completed = _with_given_ranks(os.environ, wanted)
    if wanted.rank is not None and "WORLD_SIZE" not in completed:
        raise ConfigError(f"rank={wanted.rank} needs world_size beside it")
    found = detect(completed, ignore=ignored)
    if wanted.submit and found.launcher != "slurm":
        raise ConfigError(
            f"submit=True, but this process is not a task of a Slurm step (launcher: "
            f"{found.launcher}). Start it with srun, or leave submit out."
        )
    for name, asked in (("world_size", wanted.world_size), ("rank", wanted.rank)):
        if asked is not None and asked != getattr(found, name):
            raise ConfigError(_contradiction(name, asked, found))
    return found


def _with_given_ranks(environ: Mapping[str, str], wanted: Settings) -> dict[str, str]:
    """The environment, completed by the rank and world size that the settings carry."""
    rank, world_size = wanted.rank, wanted.world_size
    if wanted.init_method and "://" in wanted.init_method:
        from allranks._init_method import parse

        url = parse(wanted.init_method)
        rank = url.rank if rank is None else rank
        world_size = url.world_size if world_size is None else world_size
    completed = dict(environ)
    if rank is not None:
        completed.setdefault("RANK", str(rank))
    if world_size is not None and "RANK" in completed:
        completed.setdefault("WORLD_SIZE", str(world_size))
    return completed


def _contradiction(name: str, asked: int, found: World) -> str:
    teller = "the environment" if found.launcher == "single" else found.launcher
    said = f"{name}={asked} was asked for, but {teller} says {getattr(found, name)}"
    if found.launcher == "single":
        return (
            f"{said}: nothing started this process as one of several. Start the script with "
            f"`allranks run -n {asked}`, torchrun, srun or mpirun."
        )
    return f"{said}. Start it with the right number of ranks, or leave {name} out."


def bring_up(wanted: Settings) -> State:
    """Bring the process group up. Collective.

    Args:
        wanted: what was asked for.
    """
    global _meetings  # noqa: PLW0603 - of this process
    deadline = Deadline.after(wanted.rendezvous_timeout.total_seconds())
    stall_after = _stall_after(wanted)
    found = _detected(wanted)
    first = _first_plan(wanted, found)
    if first.ask_mpi:
        found = _mpi.completed(found, deadline)
        first = _first_plan(wanted, found)
    meeting_plan = nth(first, _meetings)
    verify_as_asked(wanted)
    _groups.release_retired()
    meeting = watch = None
    try:
        me = _record(wanted, found)
        if not meeting_plan.alone:
            meeting = meet(meeting_plan, me, deadline)
            _meetings += 1  # Also one that fails: the next must not meet with what is left of it.
            me = _with_route(me, meeting.route)
        layout = _call_the_roll(meeting, me, deadline) if meeting else Layout(0, 1, 0, 1)
        world = _placed(found, layout)
        _prepare_recorder()
        watch = _watch_over(wanted, stall_after, meeting, me, layout) if meeting else None
        if me.device is None:
            assign_device(wanted, world)
        _prepare_gloo(layout, world.world_size)
        _describe(world, layout)
        _init_process_group(wanted, world, meeting, deadline)
    except BaseException as error:
        _give_up(meeting, watch, error)
        raise
    if watch:
        watch.come_up()
    if meeting:
        unless_lost(lambda: meeting.store.add(UP, 1))  # The next call names a rank 0 that is gone.
    return State(wanted, world, meeting, watch, layout.rank_0)


def _give_up(meeting: Meeting | None, watch: Watch | None, error: BaseException) -> None:
    """Tell the others why this rank does not come up, unless they know of one before it."""
    if watch:
        watch.announce(error)
        watch.stop("its set-up failed")
    take_down(meeting)


def _first_plan(wanted: Settings, found: World) -> Plan:
    return plan(
        found,
        wanted.init_method,
        wanted.shared_file_dir,
        wanted.array_job_num,
        port_range=_ports.allowed(os.environ),
        has_mpi4py=found.launcher in MPI and _mpi.has_mpi4py(),
    )


def _with_route(me: Record, route: Route | None) -> Record:
    return replace(me, address=route.here, address_of_0=route.there) if route else me


def take_down(meeting: Meeting | None) -> None:
    """Put back what bringing up has changed outside of torch."""
    if meeting:
        meeting.take_down()
    _environ.restore()


def _watch_over(
    wanted: Settings, stall_after: float, meeting: Meeting, me: Record, layout: Layout
) -> Watch | None:
    if os.environ.get(WATCH) == "0":
        return None
    timeout = wanted.timeout.total_seconds()
    return Watch(
        Post(
            store=meeting.store,
            me=me,
            neighbours=layout.neighbours,
            world_size=me.world_size,
            hosts_store=meeting.server is not None,
            keeper=meeting.keeper,
            stall_after=stall_after,
            timeout=timeout,
            rank_0=layout.rank_0,
        )
    )


def _stall_after(wanted: Settings) -> float:
    """Seconds in one collective after which the ranks are asked."""
    if wanted.stall_after is not None:
        return wanted.stall_after.total_seconds()
    asked = os.environ.get(STALL_AFTER, "")
    try:
        seconds = float(asked or DEFAULT_STALL_AFTER.total_seconds())
    except ValueError:
        seconds = 0.0
    if seconds > 0:
        return seconds
    raise ConfigError(f"{STALL_AFTER}={asked!r}: expected seconds, as a positive number")


def _describe(world: World, layout: Layout) -> None:
    """Tell libraries that ask the environment, as torchrun would, of a world of several ranks."""
    if world.world_size > 1:
        known = replace(world, master_addr=world.master_addr or layout.address_of_0)
        _environ.complete(known.environ(_ports.allowed(os.environ)))


def _prepare_recorder() -> None:
    """Let torch remember its last calls, so that a stall can be explained."""
    if os.environ.get(WATCH) != "0" and _flight.BUFFER not in os.environ:
        _environ.put(_flight.BUFFER, _flight.REMEMBERED)


def _record(wanted: Settings, found: World) -> Record:
    """This rank's record; a device that cannot be had is told to all, in the roll call."""
    error = None
    if found.local_rank is not None:
        try:
            assign_device(wanted, found)
        except DeviceError as cannot:
            if found.world_size == 1:
                raise
            error = str(cannot)
    assigned = found.local_rank is not None and error is None
    return Record(
        rank=found.rank,
        world_size=found.world_size,
        job=found.job,
        launcher=found.launcher,
        host=socket.gethostname(),
        host_key=_sockets.host_key(),
        pid=os.getpid(),
        pid_space=_processes.pid_space(),
        device=_devices.get_device_for_local_rank() if assigned else None,
        device_uuid=_devices.uuid() if assigned else None,
        versions=_versions(),
        error=error,
        settings=_to_be_agreed(wanted, assigned=assigned),
    )


def _to_be_agreed(wanted: Settings, *, assigned: bool) -> dict[str, str]:
    """In what all ranks must agree, lest they wait for each other in vain."""
    mode = checking()
    agreed = {"check": repr(mode if mode in (None, "lines") else True)}
    if wanted.distributed_backend:
        agreed["distributed_backend"] = repr(wanted.distributed_backend.lower())
    elif assigned:
        agreed["device"] = _devices.get_device_type()  # The backend follows it.
    return agreed


def _versions() -> str:
    import torch

    return f"Python {platform.python_version()}, torch {torch.__version__}, allranks {__version__}"


def assign_device(wanted: Settings, world: World) -> None:
    cpu = _devices.accelerator_type() is None if wanted.cpu is None else wanted.cpu
    _devices.assign_device_for_local_rank(
        cpu, world.local_rank or 0, local_world_size=world.local_world_size
    )


def _call_the_roll(meeting: Meeting, me: Record, deadline: Deadline) -> Layout:
    roll_call = RollCall(meeting.store, me, meeting.place, deadline, meeting.keeper)
    try:
        return Abandonable(roll_call.answer).result(deadline.left + 2 * LINGER)
    except StillRunning:
        store = meeting.keeper or f"the store at {meeting.place}"
        who = "what keeps it" if meeting.keeper else "rank 0"
        raise RendezvousError(
            f"{me}: {store} stopped answering during the roll call; is the network cut, or {who} "
            "stopped?"
        ) from None


def _placed(found: World, layout: Layout) -> World:
    """The world with what its launcher did not say, counted from the roll call."""
    names = ("local_rank", "local_world_size", "node_rank", "num_nodes")
    counted = {name: getattr(layout, name) for name in names if getattr(found, name) is None}
    return replace(found, **counted)


def _prepare_gloo(layout: Layout, world_size: int) -> None:
    """Else gloo listens on whatever address the host name resolves to, and joins every pair."""
    if GLOO_INTERFACE not in os.environ:
        address = _sockets.LOOPBACK if layout.num_nodes == 1 else layout.address
        interface = _sockets.interface_of(address) if address else None
        if interface:
            _environ.put(GLOO_INTERFACE, interface)
    if layout.num_nodes > 1:
        _keep_to_the_range(layout.local_rank)
    if world_size >= LAZY_PAIRS and GLOO_LAZY not in os.environ:
        _environ.put(GLOO_LAZY, "1")


def _keep_to_the_range(local_rank: int) -> None:
    """Else gloo and NCCL listen on ports that the kernel chooses."""
    asked, kernels = _ports.allowed(os.environ), _ports.of_the_kernel()
    if not asked or (kernels and kernels[0] in asked and kernels[-1] in asked):
        return
    used = ("gloo", "NCCL") if _devices.get_device_type() == "cuda" else ("gloo",)
    others = [name for name in used if not _bind.keeps_to_the_range(name)]
    if others and local_rank == 0:
        tell(
            f"warning: {_ports.PORT_RANGE}={asked[0]}-{asked[-1]} does not hold for "
            f"{' and '.join(others)}: this build of torch is another than expected, and the kernel "
            "chooses the ports. If a firewall lets nothing else through, have "
            "net.ipv4.ip_local_port_range set to the same range."
        )


def _backend(wanted: Settings) -> str | None:
    """The backend by name, or None for torch's own default for this device."""
    if wanted.distributed_backend:
        return wanted.distributed_backend
    return "gloo" if _devices.get_device_type() in ("cpu", "mps") else None


def _init_process_group(
    wanted: Settings, world: World, meeting: Meeting | None, deadline: Deadline
) -> None:
    import torch.distributed as dist

    backend = _backend(wanted)
    store = dist.PrefixStore("group", meeting.store) if meeting else dist.HashStore()
    store.set_timeout(wanted.timeout)
    device = _devices.device()

    def init() -> None:
        dist.init_process_group(
            backend,
            store=store,
            rank=world.rank,
            world_size=world.world_size,
            timeout=wanted.timeout,
            device_id=None if device.type in ("cpu", "mps") or backend == "gloo" else device,
        )

    _alarm.enter("setup", "WORLD")
    try:
        calling = Abandonable(_devices.on_same_device(init))
        calling.result_unless(_alarm.look, deadline.left)
    except PeerFailedError as error:
        raise lost(world.rank, error, deadline) from None
    except (StillRunning, RuntimeError) as error:
        timed_out = isinstance(error, StillRunning) or _alarm.has_timed_out(error)
        culprit = _alarm.find_culprit() if timed_out else _alarm.culprit(error)
        if culprit:
            raise lost(world.rank, culprit, deadline) from error
        told = what_gloo_lacked(error, world.rank, deadline, timed_out=timed_out)
        if told is None:
            raise
        raise RendezvousError(f"{told}{f' ({error})' if str(error) else ''}") from error
    finally:
        _alarm.leave()
