"""``setup``, ``cleanup`` and ``session``: the only owner of the process group's state."""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from allranks._launchers.detect import detect
from allranks._launchers.world import World
from allranks._process_group import devices, stop_signals
from allranks._process_group.adopt import adopt, adopted_world
from allranks._process_group.bring_up import ProcessGroupState, bring_up, take_down
from allranks._process_group.init_group import refuse_unknown_backend
from allranks._process_group.settings import Settings, SettingsDict, read
from allranks._stragglers.asked import asked
from allranks._system import stacks
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks._watch import failures, torch_groups
from allranks._watch.event_log import UP, counted
from allranks._watch.store_client import PATIENCE
from allranks.errors import CollectiveError, ConfigError, DetectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Unpack

    from allranks._rendezvous.record import RankRecord
    from allranks._stragglers.reports import Reports

_state: ProcessGroupState | None = None
_at_exit_registered = False
_at_cleanup = ExitStack()


@outside_graphs
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
            * distributed_backend (str): a backend of torch's, to the letter; else the device's.
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
            * stall_after (seconds, or a timedelta; default 60): how long a collective may take
              before all ranks tell where they stand, and rank 0 prints one verdict. None means
              as the variable ALLRANKS_STALL_AFTER (seconds) says; at most 0.6 of the timeout.
            * bind ("numa"): until ``cleanup``, keep this process on the CPUs of its GPU's NUMA
              node; without GPUs, on its part of the cores that the ranks of its host may use.
              None means as the variable ALLRANKS_BIND says. Where it cannot be, a note says why.

    Raises:
        ConfigError: a setting is wrong, or contradicts the launcher.
        DetectionError: the environment is half-set or contradicts itself, or this process was
            forked from a rank.
        DeviceError: this rank cannot have its device.
        RendezvousError: the ranks did not find each other; the error names those at fault.
    """
    global _state  # noqa: PLW0603 - this module is the one owner of the state
    wanted = read(config, settings)
    refuse_unknown_backend(wanted.distributed_backend)
    if process_groups.is_inherited():
        raise DetectionError(f"setup: {process_groups.no_rank()}")
    if _state is not None and (_state.failed or not initialized()):
        _end("it failed" if _state.failed else "its process group was destroyed")
    if _state is not None:
        _refuse_other_settings(_state.settings, wanted)
        return
    _register_at_exit()  # A set-up that fails may leave calls under way, too.
    _state = adopt(wanted) if initialized() else bring_up(wanted)
    _state.reports = _reports()


def _reports() -> Reports | None:
    """Tells now and then who is slow, where that is asked for."""
    every = asked()
    if every is None:
        return None
    from allranks._stragglers.reports import begin

    return begin(every)


def _refuse_other_settings(now: Settings, wanted: Settings) -> None:
    told = [
        f"{name}={value!r}, and now with {getattr(wanted, name)!r}"
        for name, value in vars(now).items()
        if value != getattr(wanted, name)
    ]
    if told:
        raise ConfigError(f"setup() was called with {'; '.join(told)}. Call cleanup() in between.")


def _register_at_exit() -> None:
    global _at_exit_registered  # noqa: PLW0603 - registered once a process
    if not _at_exit_registered:
        atexit.register(process_groups.rest_before_exit)  # Runs after _leave.
        atexit.register(_leave)
        import multiprocessing.util

        if multiprocessing.parent_process():  # Its children end without the functions of atexit.
            multiprocessing.util.Finalize(None, _leave, exitpriority=0)
        _at_exit_registered = True


def _leave() -> None:
    """At the interpreter's exit: gloo's threads must end before it does."""
    if _state is None or _state.pid != os.getpid():
        return
    import torch.distributed as dist

    failing = _state.failed or hasattr(sys, "last_value") or hasattr(sys, "last_exc")
    if initialized() and failing and "nccl" in dist.get_backend_config():
        if _state.watch:
            _state.watch.stop(_state.ending)
        return  # Destroying NCCL's communicators waits for ranks that may never come.
    _end(_state.ending)


@outside_graphs
def cleanup() -> None:
    """Destroy the process group and put the environment back as it was. Not collective.

    Idempotent, and harmless where nothing was set up. A group that other code made is destroyed
    too. Afterwards ``setup`` may be called again, with another world size as well.
    """
    _end("it called cleanup()")


def _end(how: str) -> None:
    global _state
    state, _state = _state, None
    if process_groups.is_inherited() or (state and state.pid != os.getpid()):
        return  # The group, its store and its watch are those of the rank that forked this process.
    cut_off = state is not None and state.watch is not None and state.watch.cut_off
    if state and state.meeting and not cut_off:
        # One that leaves before all are up breaks the connections that others still make.
        counted(state.meeting.store, UP, state.world.world_size, PATIENCE)
    if state and state.watch:
        state.watch.stop(how)
    if state and state.reports and not state.failed:
        state.reports.tell()
    if initialized():
        process_groups.destroy_all()
    else:
        process_groups.forget()  # The program has destroyed them itself.
    if state and state.watch:
        state.watch.see_others_off()
    devices.forget()
    stop_signals.restore()
    _at_cleanup.close()
    take_down(state.meeting if state else None)


@outside_graphs
@contextmanager
def session(
    config: Mapping[str, Any] | None = None, **settings: Unpack[SettingsDict]
) -> Iterator[World]:
    """``setup`` before the body and ``cleanup`` after it. Collective.

    On an exception the other ranks are told, and the group is not destroyed, since that may wait
    for ranks that will never come; the exception goes on, and the process is expected to leave.
    One that goes on instead comes up anew in its next ``setup`` or ``session``, as all must. A
    group that is already up, from an outer session or made by other code, is used and left as is.

    Args:
        config: as for ``setup``.
        **settings: as for ``setup``.

    Yields:
        The world, as ``world()`` gives it.

    Raises:
        AllranksError: as ``setup``.
    """
    ours = not initialized() or (_state is not None and _state.failed)
    setup(config, **settings)
    try:
        yield world()
    except GeneratorExit:
        raise
    except BaseException as error:
        if ours and _state:
            _leave_early(_state, error)
        raise
    if ours:
        _end("its session ended")


def _leave_early(state: ProcessGroupState, error: BaseException) -> None:
    """Tell the others first; what says only that a peer is gone becomes an error that names it.

    Raises:
        PeerFailedError: the error is such a one, and the peer is known.
        StalledError: the error is gloo's about a timeout, and there is a verdict.
    """
    if isinstance(error, SystemExit) and not error.code:
        line = stacks.raised_at(error.__traceback__)
        state.ending = f"its program ended with exit code 0{f', at {line}' if line else ''}"
        return
    state.failed = True
    translated = failures.translated(error)
    failures.announce(translated or error)
    if translated:
        raise translated from error


def at_cleanup(undo: Callable[[], None]) -> None:
    """Have something undone once, when the process group goes."""
    _at_cleanup.callback(undo)


def store() -> Any:
    """The store where the ranks met; torch's own where other code made the group (private there).

    Raises:
        CollectiveError: there is none.
    """
    if _state is not None and _state.meeting is not None:
        return _state.meeting.store
    torchs = torch_groups.store_of_world()
    if torchs is None:
        raise CollectiveError("this version of torch does not tell the store of a group")
    return torchs


def rank_0() -> RankRecord | None:
    """Rank 0's record; None on rank 0, and where other code made the group."""
    return _state.rank_0 if _state is not None else None


@outside_graphs
def initialized() -> bool:
    """Whether a process group is up, whoever made it. Not collective; imports no torch."""
    torch_distributed: Any = sys.modules.get("torch.distributed")
    return bool(
        torch_distributed
        and torch_distributed.is_available()
        and torch_distributed.is_initialized()
    )


@outside_graphs
def world() -> World:
    """This process's world: as set up, else as detected. Not collective.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    if _state is not None and initialized():
        return _state.world
    if initialized():
        return adopted_world()
    return detect(os.environ)
