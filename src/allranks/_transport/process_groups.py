"""Who takes part in a collective, and over which backend its data travel."""

from __future__ import annotations

import operator
import os
import socket
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allranks._launchers.detect import detect
from allranks._system import exit_threads, stacks
from allranks._system.accelerator import on_same_device
from allranks._system.printable import brief_repr
from allranks._system.waiting import BackgroundCall, Deadline, StillRunning, workers_in_calls
from allranks._system.words import ranges
from allranks._watch import failures, flight_recorder, torch_groups, waits
from allranks.errors import CollectiveError, StalledError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from typing import TypeAlias

    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    Group: TypeAlias = dist.ProcessGroup | DeviceMesh
    """What a call takes as its group: torch's process group, or a mesh of one dimension."""

CALM_SAMPLES = 3

REST = 1.0
"""Seconds to wait for threads that are within torch, at most."""

_known: dict[dist.ProcessGroup, Members] = {}
_timeouts: dict[dist.ProcessGroup, timedelta] = {}
_has_backend: dict[tuple[dist.ProcessGroup, str], bool] = {}
_private_gloo: dict[dist.ProcessGroup, dist.ProcessGroup] = {}
_retired: list[dist.ProcessGroup] = []
_number_seen = 0
"""How many groups were up when it was last looked whether some were destroyed."""
_inherited: set[dist.ProcessGroup] = set()
"""The groups of the rank that this process was forked from: their threads are not here."""


@dataclass(frozen=True)
class Members:
    """The ranks that take part in a collective.

    Attributes:
        group: torch's process group; None in a world of one where ``setup`` was not called.
        rank: this process's rank within the group.
        ranks: the members' global ranks, in the group's order.
        cache: what is kept from one call to the next, by whoever makes it.
        on_destroy: what is to be done when the group is destroyed.
    """

    group: dist.ProcessGroup | None
    rank: int
    ranks: tuple[int, ...]
    cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    on_destroy: ExitStack = field(default_factory=ExitStack, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The number of members."""
        return len(self.ranks)

    def sender(self, src: Any) -> tuple[int, str | None]:
        """The global rank that sends, or -1 and why nothing can be sent from it."""
        return self.peer("src", src)

    def peer(self, name: str, rank: Any) -> tuple[int, str | None]:
        """The global rank that an argument names, or -1 and why it is none of the group."""
        try:
            number = operator.index(rank)
        except Exception:  # noqa: BLE001 - whatever its own __index__ does
            number = -1
        if number in self.ranks:
            return number, None
        return -1, f"{name}={brief_repr(rank)} is not in this group of ranks {ranges(self.ranks)}"


def members_of(call: str, group: Group | None) -> Members:
    """The members of a group, or of a mesh of one dimension; None means WORLD, looked up now.

    Raises:
        CollectiveError: no process group is up in a world of several ranks, this rank is not in
            the group, or the mesh has several dimensions.
    """
    if _known:
        _notice_destroyed()
    if group is None and _known and not torch_groups.unusable:
        # Every small call passes here, and an import statement takes longer than all else.
        known = _known.get(sys.modules["torch.distributed"].group.WORLD)
        if known is not None:
            return known
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return _alone(call, group)
    if group is not None:
        group = group_of(call, group)
        _check_up(call, group)
    used: Any = dist.group.WORLD if group is None else group
    if used in _inherited:
        raise CollectiveError(f"{call}: {no_rank()}")
    if torch_groups.unusable:
        _check_usable(call, used)
    if used not in _known:
        _forget_destroyed()
        ranks = tuple(dist.get_process_group_ranks(used))
        _known[used] = Members(used, ranks.index(dist.get_rank()), ranks)
    return _known[used]


def is_no_group(given: Any) -> bool:
    """Whether a group is what torch gives to a rank that is not in it."""
    torchs: Any = sys.modules.get("torch.distributed")
    return torchs is not None and given is torchs.GroupMember.NON_GROUP_MEMBER


def group_of(call: str, given: Any) -> Any:
    """The process group of a mesh of one dimension; anything else as it is.

    Raises:
        CollectiveError: the mesh has several dimensions, or is of other ranks.
    """
    module: Any = sys.modules.get("torch.distributed.device_mesh")  # Without it, there is none.
    if module is None or not isinstance(given, module.DeviceMesh):
        return given
    names = given.mesh_dim_names or ()
    if given.ndim != 1:
        one = f", as mesh[{names[0]!r}]" if names else ""
        raise CollectiveError(
            f"{call}: a mesh of {given.ndim} dimensions {tuple(names)} is several groups; "
            f"pass one of its dimensions{one}"
        )
    return given.get_group() if given.get_coordinate() is not None else None


def _check_up(call: str, group: Any) -> None:
    import torch.distributed as dist

    if not isinstance(group, dist.ProcessGroup):
        raise CollectiveError(
            f"{call}: rank {dist.get_rank()} is not in this group, so it must not make the call"
        )
    if not torch_groups.is_up(group):
        raise CollectiveError(f"{call}: this group was destroyed")


def _check_usable(call: str, group: dist.ProcessGroup) -> None:
    for used in (group, _private_gloo.get(group)):
        if used in torch_groups.unusable:
            raise CollectiveError(
                f"{call}: this group is no longer usable, since {torch_groups.unusable[used]}: "
                "what is left of that call would be taken for this one. Leave, or cleanup() and "
                "setup() again."
            )


def _alone(call: str, group: Any) -> Members:
    """Calls of a world of one work without a process group; several ranks need ``setup`` first."""
    if group is not None:
        raise CollectiveError(f"{call}: no process group is up, so nobody is in this group")
    found = detect(os.environ)
    if found.world_size > 1:
        raise CollectiveError(
            f"{call}: no process group is up on rank {found.rank} of {found.world_size} "
            f"(started by {found.launcher}). Call allranks.setup() first."
        )
    return Members(None, 0, (0,))


def has_backend(group: dist.ProcessGroup, kind: str) -> bool:
    """Whether a group can move tensors that lie on devices of this type.

    gloo takes some calls on CUDA tensors and refuses others, so that it counts for the CPU alone.
    """
    if (group, kind) not in _has_backend:
        backend = torch_groups.backends(group).get(kind)
        _has_backend[group, kind] = bool(backend) and (kind == "cpu" or backend != "gloo")
    return _has_backend[group, kind]


def cpu_group(group: dist.ProcessGroup) -> dist.ProcessGroup:
    """The group itself where it moves CPU tensors, else a gloo group of the same ranks.

    Collective over the group at its first use.
    """
    import torch.distributed as dist

    if has_backend(group, "cpu"):
        return group
    if group not in _private_gloo:
        ranks = dist.get_process_group_ranks(group)
        name = f"{group.group_name}/cpu"
        made = new_group("the first call on CPU data", ranks, name, group, backend="gloo")
        _private_gloo[group] = made
    return _private_gloo[group]


def new_group(
    what: str, ranks: Sequence[int], name: str, within: dist.ProcessGroup, **more: Any
) -> dist.ProcessGroup:
    """A group of these ranks alone, with the timeout of another. Collective over them.

    torch names such a group by how many groups each process has, so that ranks which are in
    different numbers of groups never meet (torch 2.13), and lets no caller choose the name.

    Args:
        what: the call that makes it, for errors.
        ranks: the global ranks, all of which make the call, in the group's order.
        name: the same on all of them, and on no other group of the job.
        within: whose timeout it inherits.
        **more: as for ``torch.distributed.new_group``.

    Raises:
        CollectiveError: torch has no function that names groups, or the store is gone.
        PeerFailedError: another rank has failed, or left.
        StalledError: it did not come up within the timeout.
    """
    import torch.distributed as dist

    limit = timeout(within)

    def make() -> dist.ProcessGroup:
        with torch_groups.named(name), torch_groups.unbound():
            made: dist.ProcessGroup = dist.new_group(
                list(ranks), timeout=limit, use_local_synchronization=True, **more
            )
        return made

    failures.begin_wait(what, torch_groups.name_of(within), ranks=ranks)
    try:
        making = BackgroundCall(on_same_device(make))
        return making.result_unless(failures.raise_if_failed, limit.total_seconds() + 1)
    except (StillRunning, RuntimeError) as error:
        if explained := _explained(error, what, ranks, limit):
            raise explained from error
        raise
    finally:
        failures.end_wait()


def _explained(
    error: Exception, what: str, ranks: Sequence[int], limit: timedelta
) -> CollectiveError | None:
    """Why a group did not come up, by which rank; None if torch's own error tells it."""
    if culprit := failures.cause_of(error, _with_the_store(ranks)):
        return failures.peer_failed(culprit, what)
    if isinstance(error, StillRunning) or failures.has_timed_out(error):
        told = failures.verdict() or "at least one rank did not make the same call."
        seconds = f"{limit.total_seconds():g} s"
        return StalledError(f"{what} did not complete within {seconds}; {told}")
    lost = failures.store_lost(error)
    return CollectiveError(f"{what}: {lost}") if lost else None


def group_for_tensor(group: dist.ProcessGroup, tensor: torch.Tensor) -> dist.ProcessGroup:
    """The group over which a tensor travels: itself, or the gloo group beside it."""
    return group if has_backend(group, tensor.device.type) else cpu_group(group)


def _gloo_is_busy() -> bool:
    """Whether a thread that runs gloo's operations is at work (Linux; elsewhere unknown)."""
    for task in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):
            name, _, rest = task.read_text().partition(") ")
            if name.endswith("(pt_gloo_runloop") and not rest.startswith("S"):
                return True
    return False


def timeout(group: dist.ProcessGroup) -> timedelta:
    """A group's timeout."""
    if group not in _timeouts:
        _timeouts[group] = torch_groups.timeout_of(group)
    return _timeouts[group]


def destroy_all() -> None:
    """Destroy WORLD and its sub-groups; the objects themselves are kept for a while.

    A DDP model that outlives its group would drop the last reference while it holds the
    interpreter's lock, and wait for a gloo thread that waits for the lock (seen with torch 2.13).
    """
    import torch.distributed as dist

    _retired.extend(torch_groups.all_groups())
    forget()
    dist.destroy_process_group()


def _notice_destroyed() -> None:
    """See whether the program has destroyed groups; each call asks, so it must cost little."""
    global _number_seen  # noqa: PLW0603 - of this process
    if _retired:
        _drop_retired()
    table = torch_groups.table()
    number = sum(map(torch_groups.is_up, _known)) if table is None else len(table)
    if number != _number_seen:
        _number_seen = number
        _forget_destroyed()


def _forget_destroyed() -> None:
    """Forget groups that the program has destroyed; their objects are kept until the next call."""
    import torch.distributed as dist

    gone = [group for group in _known if not torch_groups.is_up(group)]
    for group in gone:
        _known.pop(group).on_destroy.close()
        _timeouts.pop(group, None)
        torch_groups.unusable.pop(group, None)
        flight_recorder.forget_group(str(group.group_name))
        waits.forget_group(str(group.group_name))
        private = _private_gloo.pop(group, None)
        if private is not None and torch_groups.is_up(private):
            dist.destroy_process_group(private)
    for key in [key for key in _has_backend if not torch_groups.is_up(key[0])]:
        del _has_backend[key]
    _retired.extend(gone)


def _drop_retired() -> None:
    """Drop the destroyed groups, in a thread: one with a call in flight holds up who drops it."""
    going = _retired.copy()
    _retired.clear()

    def drop() -> None:
        time.sleep(0.001)  # Without the interpreter's lock, which their threads may be waiting for.
        going.clear()

    with suppress(StillRunning):
        BackgroundCall(drop).result(REST)


def forget() -> None:
    """Keep nothing of groups that are gone, or are not this process's."""
    for members in _known.values():
        members.on_destroy.close()
    for kept in (_known, _timeouts, _has_backend, torch_groups.unusable, _private_gloo):
        kept.clear()
    flight_recorder.forget()
    waits.forget()


def _forget_after_fork() -> None:
    """A call of a child would be taken for its parent's."""
    if "torch.distributed" in sys.modules:
        _inherited.update(torch_groups.all_groups())
    forget()


def is_inherited() -> bool:
    """Whether the process group that is up is that of the rank which forked this process."""
    torchs: Any = sys.modules.get("torch.distributed")
    return bool(_inherited) and torchs.group.WORLD in _inherited


def no_rank() -> str:
    """Why a process that a rank has forked can make no calls."""
    import torch.distributed as dist

    return (
        f"this process (pid {os.getpid()} on {socket.gethostname()}) was forked from rank "
        f"{dist.get_rank()}, whose process group it cannot use. Make the call in the rank itself; "
        "ranks of its own it can start with allranks.launch."
    )


os.register_at_fork(after_in_child=_forget_after_fork)


def _with_the_store(ranks: Sequence[int]) -> tuple[int, ...]:
    """Who may be lost while a group of these ranks is made: they meet in rank 0's store."""
    return tuple({0, *ranks})


def release_retired() -> None:
    """Drop the destroyed groups: their threads have long come to rest."""
    _retired.clear()


def rest_before_exit() -> None:
    """Let gloo's threads and ours come to rest, and never drop the destroyed groups.

    A thread of gloo's that needs the interpreter's lock to drop its last operation, and finds the
    interpreter ending, aborts the process (2 of 48 exits after a DDP step, with torch 2.13); so
    does a call of torch's that returns then, in a thread that was left behind, or in a daemon of
    the program's, where it returns when the peers have left.
    """
    import ctypes

    calm, end = 0, Deadline.after(REST)
    with suppress(KeyboardInterrupt):  # It is on its way out.
        while calm < CALM_SAMPLES and not end.passed:
            time.sleep(0.001)  # Without the lock, which they may be waiting for.
            busy = _gloo_is_busy() or workers_in_calls() or stacks.others_in_calls()
            calm = 0 if busy else calm + 1
    exit_threads.park([*workers_in_calls(), *stacks.others_in_calls()])
    for group in _retired:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
