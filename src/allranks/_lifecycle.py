"""``setup``, ``cleanup`` and ``session``: the only owner of the process group's state."""

from __future__ import annotations

import atexit
import os
import platform
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from allranks import _devices, _environ, _groups, _signals, _sockets
from allranks._headers import CHECK
from allranks._plan import nth, plan
from allranks._rendezvous import Meeting, meet
from allranks._rollcall import LINGER, Layout, Record, RollCall
from allranks._settings import Settings, SettingsDict, read
from allranks._waiting import Abandonable, Deadline, StillRunning
from allranks._world import World, detect
from allranks.errors import (
    CollectiveError,
    ConfigError,
    DetectionError,
    DeviceError,
    RendezvousError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Unpack

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
GLOO_LAZY = "TORCH_GLOO_LAZY_INIT"

LAZY_PAIRS = 1024
"""Ranks from which on gloo connects a pair only when it is used: N - 1 sockets a rank else."""


@dataclass
class _State:
    """What ``setup`` did, for ``cleanup`` to undo."""

    settings: Settings
    world: World
    meeting: Meeting | None
    adopted: bool


_state: _State | None = None
_worlds = 0
_failed = False
_at_exit_registered = False


def setup(config: Mapping[str, Any] | None = None, **settings: Unpack[SettingsDict]) -> None:
    """Bring the process group up, under whatever started this process. Collective.

    Every rank of the job must call it, with settings that agree. Calling it again with the same
    settings does nothing; a process group that other code has made is adopted as it is.

    Args:
        config: any mapping (a dict, an OmegaConf or Hydra configuration) with the keys below;
            its other keys are ignored, unless one looks like a misspelling.
        **settings: the same keys as keywords, which override the mapping. All are optional:

            * world_size (int): checked against what the launcher says.
            * rank (int): this process's rank, where no launcher tells it.
            * cpu (bool): True for the CPU, False for an accelerator, None for what is there.
            * distributed_backend (str): torch's backend, to the letter; else it follows the device.
            * submit (bool): True if this must be a Slurm step; False ignores Slurm.
            * init_method (str): "tcp", "file", "env", or a ``tcp://`` or ``file://`` URL.
            * shared_file_dir (str): a directory that all hosts share, where ranks may meet.
            * array_job_num (int): tells the jobs of an array apart in that directory.
            * timeout (minutes, or a timedelta; default 30): how long a collective may take.
            * rendezvous_timeout (seconds, or a timedelta; default 600): how long the ranks may
              take to find each other.
            * check (bool or "lines"): verify bare-tensor ``all_reduce`` and ``broadcast`` too, at
              the cost of a small message each; "lines" also compares the lines that make the
              calls, which refuses programs whose ranks call from different branches. None means
              as the variable ALLRANKS_CHECK says.

    Raises:
        ConfigError: a setting is wrong, or contradicts the launcher.
        DetectionError: the environment is half-set or contradicts itself.
        DeviceError: this rank cannot have its device.
        RendezvousError: the ranks did not find each other; the error names those at fault.
    """
    global _state  # noqa: PLW0603 - this module is the one owner of the state
    wanted = read(config, settings)
    _refuse_unknown_backend(wanted.distributed_backend)
    if _state is not None and initialized():
        _refuse_other_settings(_state.settings, wanted)
        return
    _state = _adopt(wanted) if initialized() else _bring_up(wanted, _detect(wanted))
    _register_at_exit()


def _refuse_other_settings(now: Settings, wanted: Settings) -> None:
    told = [
        f"{name}={value!r}, and now with {getattr(wanted, name)!r}"
        for name, value in vars(now).items()
        if value != getattr(wanted, name)
    ]
    if told:
        raise ConfigError(f"setup() was called with {'; '.join(told)}. Call cleanup() in between.")


def _refuse_unknown_backend(backend: str | None) -> None:
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


def _detect(wanted: Settings) -> World:
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


def _bring_up(wanted: Settings, found: World) -> _State:
    global _worlds  # noqa: PLW0603 - this module is the one owner of the state
    first = plan(found, wanted.init_method, wanted.shared_file_dir, wanted.array_job_num)
    meeting_plan = nth(first, _worlds)
    deadline = Deadline.after(wanted.rendezvous_timeout.total_seconds())
    if wanted.check is not None:
        _environ.put(CHECK, str(wanted.check).lower())
    _groups.release_retired()
    meeting = None
    try:
        me = _record(wanted, found)
        if not meeting_plan.alone:
            meeting = meet(meeting_plan, me, deadline)
        layout = _call_the_roll(meeting, me, deadline) if meeting else Layout(0, 1, 0, 1)
        world = _placed(found, layout)
        if me.device is None:
            _assign_device(wanted, world)
        _prepare_gloo(layout, world.world_size)
        _init_process_group(wanted, world, meeting, deadline)
    except BaseException:
        _take_down(meeting)
        raise
    _worlds += meeting is not None
    return _State(wanted, world, meeting, adopted=False)


def _record(wanted: Settings, found: World) -> Record:
    """This rank's record; a device that cannot be had is told to all, in the roll call."""
    error = None
    if found.local_rank is not None:
        try:
            _assign_device(wanted, found)
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
        device=_devices.get_device_for_local_rank() if assigned else None,
        device_uuid=_devices.uuid() if assigned else None,
        versions=_versions(),
        error=error,
    )


def _versions() -> str:
    import torch

    return f"Python {platform.python_version()}, torch {torch.__version__}"


def _assign_device(wanted: Settings, world: World) -> None:
    cpu = _devices.accelerator_type() is None if wanted.cpu is None else wanted.cpu
    _devices.assign_device_for_local_rank(
        cpu, world.local_rank or 0, local_world_size=world.local_world_size
    )


def _call_the_roll(meeting: Meeting, me: Record, deadline: Deadline) -> Layout:
    roll_call = RollCall(meeting.store, me, meeting.place, deadline)
    try:
        return Abandonable(roll_call.answer).result(deadline.left + 2 * LINGER)
    except StillRunning:
        raise RendezvousError(
            f"{me}: the store at {meeting.place} stopped answering during the roll call; is the "
            "network cut, or rank 0 stopped?"
        ) from None


def _placed(found: World, layout: Layout) -> World:
    """The world with what its launcher did not say, counted from the roll call."""
    counted = {name: value for name, value in vars(layout).items() if getattr(found, name) is None}
    return replace(found, **counted)


def _prepare_gloo(layout: Layout, world_size: int) -> None:
    """Else gloo listens on whatever address the host name resolves to, and joins every pair."""
    if layout.num_nodes == 1 and GLOO_INTERFACE not in os.environ:
        names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        if names:
            _environ.put(GLOO_INTERFACE, names[0])
    if world_size >= LAZY_PAIRS and GLOO_LAZY not in os.environ:
        _environ.put(GLOO_LAZY, "1")


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

    if backend != "gloo":
        init()  # NCCL binds to the calling thread's device.
        return
    try:
        Abandonable(init).result(deadline.left)
    except StillRunning:
        raise RendezvousError(
            f"rank {world.rank}: all ranks answered the roll call, but gloo did not connect them "
            f"within {deadline.seconds:g} s. Does a firewall let the hosts reach each other on "
            f"any port? Is {GLOO_INTERFACE}={os.environ.get(GLOO_INTERFACE)!r} the right interface?"
        ) from None


def _adopt(wanted: Settings) -> _State:
    """Take over the process group that other code has made."""
    import torch.distributed as dist

    size, rank = dist.get_world_size(), dist.get_rank()
    for name, asked, actual in (
        ("world_size", wanted.world_size, size),
        ("rank", wanted.rank, rank),
    ):
        if asked is not None and asked != actual:
            raise ConfigError(
                f"{name}={asked} was asked for, but a process group is already up with {actual}"
            )
    world = _adopted_world(rank, size)
    _assign_device(wanted, world)
    return _State(wanted, world, None, adopted=True)


def _adopted_world(rank: int, size: int) -> World:
    try:
        found = detect(os.environ)
    except DetectionError:
        found = World("env", rank, size)
    if (found.rank, found.world_size) == (rank, size):
        return found
    return World("env", rank, size, notes=("the process group was made by other code",))


def _register_at_exit() -> None:
    global _at_exit_registered  # noqa: PLW0603 - registered once a process
    if not _at_exit_registered:
        atexit.register(_groups.rest_before_exit)  # Runs after _leave.
        atexit.register(_leave)
        _at_exit_registered = True


def _leave() -> None:
    """At the interpreter's exit: gloo's threads must end before it does."""
    import torch.distributed as dist

    failing = _failed or hasattr(sys, "last_value") or hasattr(sys, "last_exc")
    if initialized() and failing and "nccl" in dist.get_backend_config():
        return  # Destroying NCCL's communicators waits for ranks that may never come.
    cleanup()


def cleanup() -> None:
    """Destroy the process group and put the environment back as it was. Not collective.

    Idempotent, and harmless where nothing was set up. A group that other code made is destroyed
    too. Afterwards ``setup`` may be called again, with another world size as well.
    """
    global _state
    if initialized():
        _groups.destroy_all()
    meeting, _state = (_state.meeting if _state else None), None
    _devices.forget()
    _signals.restore()
    _take_down(meeting)


def _take_down(meeting: Meeting | None) -> None:
    if meeting and meeting.board:
        meeting.board.take_down()
    _environ.restore()


@contextmanager
def session(
    config: Mapping[str, Any] | None = None, **settings: Unpack[SettingsDict]
) -> Iterator[World]:
    """``setup`` before the body and ``cleanup`` after it. Collective.

    On an exception the group is not destroyed, since that may wait for ranks that will never
    come; the exception goes on, and the process is expected to leave. A group that is already
    up, from an outer session or made by other code, is used and left as it is.

    Args:
        config: as for ``setup``.
        **settings: as for ``setup``.

    Yields:
        The world, as ``world()`` gives it.

    Raises:
        AllranksError: as ``setup``.
    """
    global _failed  # noqa: PLW0603 - this module is the one owner of the state
    ours = not initialized()
    setup(config, **settings)
    try:
        yield world()
    except BaseException:
        _failed = True
        raise
    if ours:
        cleanup()


def store() -> Any:
    """The store where the ranks met; torch's own where other code made the group (private there).

    Raises:
        CollectiveError: there is none.
    """
    if _state is not None and _state.meeting is not None:
        return _state.meeting.store
    import torch.distributed as dist

    default = getattr(dist.distributed_c10d, "_get_default_store", None)
    if default is None:
        raise CollectiveError("this version of torch does not tell the store of a group")
    return default()


def initialized() -> bool:
    """Whether a process group is up, whoever made it. Not collective; imports no torch."""
    torch_distributed: Any = sys.modules.get("torch.distributed")
    return bool(
        torch_distributed
        and torch_distributed.is_available()
        and torch_distributed.is_initialized()
    )


def world() -> World:
    """This process's world: as set up, else as detected. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    if _state is not None and initialized():
        return _state.world
    if initialized():
        import torch.distributed as dist

        return _adopted_world(dist.get_rank(), dist.get_world_size())
    return detect(os.environ)
