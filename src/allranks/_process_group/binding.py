"""``setup(bind="numa")``: this process, on the CPUs of its share, until ``cleanup``.

Memory follows by itself: Linux takes a page from the node of the CPU that first writes to it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._process_group import devices
from allranks._process_group.cpu_shares import Device, Host, Share, share_of
from allranks._system import cpus, numa
from allranks._system.accelerator import accelerator_type
from allranks._system.words import ranges, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings
    from allranks._rendezvous.record import RankRecord

THREADS = "OMP_NUM_THREADS"
"""Where it is set, it says how many threads torch uses, whatever the share."""

CANNOT_CHOOSE = "this system does not let a process choose its CPUs"


@dataclass(frozen=True)
class _Bound:
    """What was done, for ``release`` to undo: the CPUs and threads before it, and since."""

    cpus_before: Sequence[int]
    cpus: Sequence[int]
    threads_before: int
    threads: int


_bound: _Bound | None = None


def usable_cpus(wanted: Settings) -> str:
    """The CPUs that this process may use, for the roll call; "" unless it asks to be bound."""
    return ranges(cpus.affinity()) if wanted.bind and cpus.can_be_chosen() else ""


def bind(wanted: Settings, me: RankRecord, peers: Sequence[RankRecord]) -> None:
    """Bind this process as the settings ask; where that cannot be, say why. Not collective.

    The ranks of a host divide its cores alike, by what all of them have told in the roll call. One
    rank speaks for those on the CPU, and each that has a GPU for itself.

    Args:
        wanted: what was asked for.
        me: this rank's record.
        peers: those of the other ranks of its host.
    """
    if wanted.bind is None:
        return
    here = sorted([me, *(one for one in peers if one.cpus)], key=lambda one: one.rank)
    device = _device(here)
    outcome = _why_not(here) or share_of(here.index(me), device, _host(len(here)))
    if isinstance(outcome, Share):
        _bind_to(outcome, me)
    elif device.name != "cpu":
        tell(f"note: bind={wanted.bind!r} leaves {me} as it is: {outcome}")
    elif me is here[0]:
        tell(f"note: bind={wanted.bind!r} leaves the ranks on {me.host} as they are: {outcome}")


def release() -> None:
    """Undo it, on the threads that are still where it has put them."""
    global _bound
    bound, _bound = _bound, None
    if bound is None:
        return
    import torch

    with suppress(OSError):  # Those CPUs have been taken from this process meanwhile.
        cpus.move(bound.cpus, bound.cpus_before)
    if torch.get_num_threads() == bound.threads:
        torch.set_num_threads(bound.threads_before)


def foreseen(world: World) -> str:
    """What would come of it for this process, in words, if all ranks of its host are as it is.

    Args:
        world: its world, with its place on its host.

    Raises:
        DeviceError: it could not have its GPU.
    """
    place, ranks = world.local_rank, world.local_world_size
    if not cpus.can_be_chosen():
        return CANNOT_CHOOSE
    if place is None or ranks is None:
        return "divided by setup(), once it knows the ranks of this host"
    kind = accelerator_type()
    index = devices.choose_index(kind, place, ranks) if kind else 0
    device = Device(f"{kind}:{index}", devices.numa_node_of(kind, index)) if kind else Device("cpu")
    share = share_of(place, device, _host(ranks))
    return str(share) if isinstance(share, Share) else f"binds nobody: {share}"


def _why_not(here: Sequence[RankRecord]) -> str:
    """What keeps all ranks of the host from being bound; "" if nothing does."""
    if not here[0].cpus:
        return CANNOT_CHOOSE
    if len({one.cpus for one in here}) == 1:
        return ""
    other = next(one for one in here if one.cpus != here[0].cpus)
    told = " and ".join(f"rank {one.rank} to CPUs {one.cpus}" for one in (here[0], other))
    return (
        f"their launcher has bound {told}; srun --cpu-bind=none or mpirun --bind-to none does not"
    )


def _device(here: Sequence[RankRecord]) -> Device:
    """This rank's; who else is beside it is known of ranks that had theirs before the roll call."""
    name, node = devices.get_device_for_local_rank(), devices.numa_node()
    return Device(name, node, sum(one.numa_node == node for one in here) or len(here))


def _host(ranks: int) -> Host:
    return Host(numa.cores(cpus.affinity()), ranks, cpus.quota())


def _bind_to(share: Share, me: RankRecord) -> None:
    """Bind all threads of this process, and let torch use no more of them than compute at once."""
    global _bound  # noqa: PLW0603 - of this process
    import torch

    now, threads = cpus.affinity(), torch.get_num_threads()
    fewer = threads if os.environ.get(THREADS) else min(threads, share.threads)
    _bound = _Bound(now, share.cpus, threads, fewer)
    try:
        cpus.move(now, share.cpus)
    except OSError as error:
        tell(f"note: {me} cannot be bound to CPUs {ranges(share.cpus)}: {error}")
        release()
    else:
        torch.set_num_threads(fewer)
