"""A process group that other code has made becomes ours: with a watch, a device, a description."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from allranks._launchers.detect import detect
from allranks._launchers.fields import number
from allranks._launchers.world import World
from allranks._process_group import binding, devices
from allranks._process_group import bring_up as steps
from allranks._process_group.own_record import assign_device, own_record
from allranks._rendezvous.gathering import call_the_roll
from allranks._rendezvous.meeting import Meeting
from allranks._system.waiting import Deadline
from allranks._system.words import tell
from allranks._transport import process_groups
from allranks._watch import torch_groups
from allranks._watch.host_news import name_of
from allranks.errors import ConfigError, DetectionError

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._process_group.bring_up import ProcessGroupState
    from allranks._process_group.settings import Settings

PLACE = "the store of a process group that other code has made"


def adopt(wanted: Settings) -> ProcessGroupState:
    """Take over the process group that other code has made. Collective.

    Its ranks find out who shares a host through the group's own store, where torch gives it away.

    Args:
        wanted: what was asked for.

    Raises:
        ConfigError: the group has another world size or rank than was asked for.
        RendezvousError: not all of its ranks called ``setup``.
    """
    found = adopted_world()
    _refuse_another(wanted, found)
    steps.tell_misspelt_variables(found)
    stall_after = steps.stall_after(wanted)
    store = torch_groups.store_of_world() if found.world_size > 1 else None
    steps.verify_as_asked(wanted)
    if store is None:
        if found.local_rank is not None:
            _assign_device(wanted, found)
        _bind_alone(wanted, found)
        return steps.ProcessGroupState(wanted, found)
    return _adopted(wanted, found, _meeting(store, found), stall_after)


def _bind_alone(wanted: Settings, found: World) -> None:
    """Bind a rank that has met no other one: the only one, or one of a store that torch keeps."""
    if wanted.bind is None:
        return
    if found.world_size == 1:
        binding.bind(wanted, own_record(wanted, found, _assign_device), ())
    elif found.rank == 0:
        tell(f"note: bind={wanted.bind!r} binds nobody: this torch keeps the store of the group")


def _adopted(
    wanted: Settings, found: World, meeting: Meeting, stall_after: float
) -> ProcessGroupState:
    deadline = Deadline.after(wanted.rendezvous_timeout.total_seconds())
    theirs = replace(wanted, timeout=process_groups.timeout(torch_groups.world()))
    with ExitStack() as undo:
        undo.callback(steps.take_down, meeting)
        listener = steps.news_listener(found, undo)
        me = own_record(wanted, found, _assign_device)
        doubt = "Did all of them call allranks.setup()?"
        me = replace(me, doubt=doubt, socket=name_of(listener), backend="")
        layout = call_the_roll(meeting, me, deadline).layout_for(me.rank)
        world = steps.completed(found, layout)
        watch = steps.start_watch(theirs, stall_after, meeting, me, layout, listener, undo)
        if me.device is None:
            _assign_device(wanted, world)
        binding.bind(wanted, me, layout.local_peers)
        steps.describe(world, layout)
        undo.pop_all()
    steps.tell_that_it_is_up(meeting, watch)
    return steps.ProcessGroupState(wanted, world, meeting, watch, layout.rank_0)


def _assign_device(wanted: Settings, world: World) -> None:
    """As other code has chosen it, else by the local rank."""
    bound = getattr(torch_groups.world(), "bound_device_id", None)
    if wanted.cpu or not devices.keep_chosen(bound):
        assign_device(wanted, world)


def _refuse_another(wanted: Settings, found: World) -> None:
    for name, asked in (("world_size", wanted.world_size), ("rank", wanted.rank)):
        actual = getattr(found, name)
        if asked is not None and asked != actual:
            raise ConfigError(
                f"{name}={asked} was asked for, but a process group is already up with {actual}"
            )


def adopted_world() -> World:
    """This process's place in the group that is up, with what its launcher says of the rest."""
    import torch.distributed as dist

    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        found = detect(os.environ)
    except DetectionError:
        found = World("env", rank, size)
    if (found.rank, found.world_size) == (rank, size):
        return found
    note = "the process group was made by other code"
    return World("env", rank, size, _local_rank(size), job="adopted", notes=(note,))


def _local_rank(world_size: int) -> int | None:
    try:
        local_rank = number(os.environ, "LOCAL_RANK")
    except DetectionError:
        return None
    return local_rank if local_rank is not None and local_rank < world_size else None


def _meeting(store: dist.Store, found: World) -> Meeting:
    """The ranks have met: in a store that rank 0 serves, as torch does, or that no rank does."""
    import torch.distributed as dist

    beginning = f"allranks/adopted/{steps.count_meeting()}"
    here = dist.PrefixStore(beginning, store)
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    served_by_rank_0 = isinstance(store, dist.TCPStore) and not found.agent_store
    server: Any = store if served_by_rank_0 and found.rank == 0 else None
    return Meeting(here, PLACE, server=server, external_store="" if served_by_rank_0 else PLACE)
