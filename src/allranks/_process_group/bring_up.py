"""One rank comes up: who it is, where the others are, its device, its process group."""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from allranks._launchers.world import World
from allranks._process_group import binding, environment
from allranks._process_group.inherited import leave_word, refuse_inherited_place
from allranks._process_group.init_group import (
    connects_all_pairs,
    init_process_group,
    prepare_gloo,
)
from allranks._process_group.intended_world import detected, planned
from allranks._process_group.own_record import assign_device, own_record
from allranks._process_group.settings import DEFAULT_STALL_AFTER, Settings
from allranks._rendezvous import mpi, ports
from allranks._rendezvous.gathering import Company, gather
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.plan import RendezvousPlan, for_later_meeting
from allranks._rendezvous.record import HostLayout, RankRecord
from allranks._rendezvous.tcp_store import Route
from allranks._system import streams, variables
from allranks._system.waiting import Deadline
from allranks._system.words import tell
from allranks._transport import process_groups
from allranks._transport.headers import CHECK
from allranks._watch import flight_recorder
from allranks._watch.config import WatchConfig
from allranks._watch.event_log import UP
from allranks._watch.host_news import listening, name_of
from allranks._watch.store_client import unless_lost
from allranks._watch.watch import Watch
from allranks.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from allranks._stragglers.reports import Reports

WATCH = "ALLRANKS_WATCH"
STALL_AFTER = "ALLRANKS_STALL_AFTER"

SPARE = 16
"""Descriptors that rank 0's process has open beside its connections to the others, at least."""


_meetings = 0
"""How many stores this process has met in, the same on all ranks."""


@dataclass
class ProcessGroupState:
    """What ``setup`` did, for ``cleanup`` to undo.

    Attributes:
        settings: what was asked for.
        world: what came of it.
        meeting: where the ranks met; None in a world of one, and where other code made the group.
        watch: the watch, or None.
        rank_0: rank 0's record; None on rank 0, and where there was no roll call.
        reports: tells who is slow, where that is asked for.
        ending: how this rank leaves, for the others.
        failed: whether an exception has left the session.
        pid: this process; what it forks is no rank.
    """

    settings: Settings
    world: World
    meeting: Meeting | None = None
    watch: Watch | None = None
    rank_0: RankRecord | None = None
    reports: Reports | None = None
    ending: str = "its program ended"
    failed: bool = False
    pid: int = field(default_factory=os.getpid)


def verify_as_asked(wanted: Settings) -> None:
    """Verify bare tensors from now on, where the settings say so."""
    if wanted.check is not None:
        environment.put(CHECK, str(wanted.check).lower())


def bring_up(wanted: Settings) -> ProcessGroupState:
    """Bring the process group up. Collective.

    Args:
        wanted: what was asked for.
    """
    deadline = Deadline.after(wanted.rendezvous_timeout.total_seconds())
    patience = stall_after(wanted)
    found, how = plan_meeting(wanted, deadline)
    _tell_doubt(found)
    tell_misspelt_variables(found)
    verify_as_asked(wanted)
    process_groups.release_retired()
    with ExitStack() as undo:
        undo.callback(take_back)
        listener = news_listener(found, undo)
        known = replace(own_record(wanted, found), socket=name_of(listener))
        me, meeting, layout = gather_ranks(how, known, wanted, found, deadline, undo)
        world = completed(found, layout)
        _prepare_recorder()
        watch = start_watch(wanted, patience, meeting, me, layout, listener, undo)
        if me.device is None:
            assign_device(wanted, world)
        binding.bind(wanted, me, layout.local_peers)
        prepare_gloo(layout, world.world_size)
        describe(world, layout)
        init_process_group(wanted, world, meeting, deadline)
        undo.pop_all()
    tell_that_it_is_up(meeting, watch)
    return ProcessGroupState(wanted, world, meeting, watch, layout.rank_0)


def _tell_doubt(found: World) -> None:
    """Say at once that the world may not be the one that is meant, where that is likely."""
    if found.doubt and (found.world_size == 1 or streams.on_a_terminal()):
        tell(f"warning: {found.doubt}")


def tell_misspelt_variables(found: World) -> None:
    """Say on rank 0, once a process, which variables look like ours and are read by nobody."""
    for line in variables.misspelt(os.environ) if found.rank == 0 else ():
        _tell_once(f"warning: {line}")


@functools.cache
def _tell_once(text: str) -> None:
    tell(text)


def plan_meeting(wanted: Settings, deadline: Deadline) -> tuple[World, RendezvousPlan]:
    """Who this process is, and how the ranks will meet; where nothing else tells, MPI is asked."""
    found = detected(wanted)
    refuse_inherited_place(found)
    first = planned(wanted, found)
    if first.ask_mpi:
        found = mpi.completed(found, deadline)
        first = planned(wanted, found)
    return found, for_later_meeting(first, _meetings)


def gather_ranks(
    how: RendezvousPlan,
    me: RankRecord,
    wanted: Settings,
    found: World,
    deadline: Deadline,
    undo: ExitStack,
) -> tuple[RankRecord, Meeting | None, HostLayout]:
    """The ranks meet; nobody in a world of one. This rank's record knows the way to rank 0."""
    if how.alone:
        return me, None, HostLayout(0, 1, 0, 1)
    count_meeting()  # Also one that fails: the next must not meet with what is left of it.
    company = Company(found.local_world_size, descriptors_of_rank_0(wanted, me.world_size))
    meeting, verdict = gather(how, me, company, deadline, undo)
    return _with_route(me, meeting.route), meeting, verdict.layout_for(me.rank)


def descriptors_of_rank_0(wanted: Settings, world_size: int) -> int:
    """How many the world will surely need in rank 0's process: each other rank's connections."""
    watch = os.environ.get(WATCH) != "0"
    return SPARE + (world_size - 1) * (1 + watch + connects_all_pairs(wanted, world_size))


def count_meeting() -> int:
    """How many stores this process has met in, or tried to, with this one."""
    global _meetings  # noqa: PLW0603 - of this process
    _meetings += 1
    return _meetings


def tell_that_it_is_up(meeting: Meeting | None, watch: Watch | None) -> None:
    if watch:
        watch.come_up()
    if meeting:
        unless_lost(lambda: meeting.store.add(UP, 1))  # The next call names a rank 0 that is gone.


def _with_route(me: RankRecord, route: Route | None) -> RankRecord:
    return replace(me, address=route.here, address_of_0=route.there) if route else me


def take_down(meeting: Meeting | None) -> None:
    """Put back what bringing up has changed outside of torch."""
    if meeting:
        meeting.take_down()
    take_back()


def take_back() -> None:
    """Put back what bringing up has changed of this process."""
    binding.release()
    environment.restore()


def _is_unwatched() -> bool:
    return os.environ.get(WATCH) == "0"


def news_listener(found: World, undo: ExitStack) -> socket.socket | None:
    """Where other ranks of this host may connect for the news, from before they can know of it."""
    if found.world_size == 1 or _is_unwatched():
        return None
    listener = listening()
    if listener:
        undo.callback(listener.close)
    return listener


def start_watch(
    wanted: Settings,
    stall_after: float,
    meeting: Meeting | None,
    me: RankRecord,
    layout: HostLayout,
    listener: socket.socket | None,
    undo: ExitStack,
) -> Watch | None:
    """The watch, which tells the others why this rank does not come up, if it does not."""
    if meeting is None or _is_unwatched():
        return None
    config = WatchConfig(
        store=meeting.store,
        me=me,
        local_peers=layout.local_peers,
        world_size=me.world_size,
        hosts_store=meeting.server is not None,
        external_store=meeting.external_store,
        stall_after=stall_after,
        timeout=wanted.timeout.total_seconds(),
        rank_0=layout.rank_0,
        node_rank=layout.node_rank,
        num_nodes=layout.num_nodes,
        listener=listener,
    )
    watch = Watch(config)

    def leave(_: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            watch.announce(error)
        watch.stop("its set-up failed")

    undo.push(leave)
    return watch


def stall_after(wanted: Settings) -> float:
    """Seconds in one collective after which the ranks are asked."""
    if wanted.stall_after is not None:
        return wanted.stall_after.total_seconds()
    asked = os.environ.get(STALL_AFTER, "")
    if not asked:
        return DEFAULT_STALL_AFTER.total_seconds()
    seconds = variables.number(STALL_AFTER)
    if seconds > 0:
        return seconds
    raise ConfigError(f"{STALL_AFTER}={asked!r}: expected seconds, as a positive number")


def describe(world: World, layout: HostLayout) -> None:
    """Tell libraries that ask the environment, as torchrun would, of a world of several ranks."""
    if world.world_size > 1:
        known = replace(world, master_addr=world.master_addr or layout.address_of_0)
        environment.complete(known.environ(ports.allowed(os.environ)))
        leave_word(world)


def _prepare_recorder() -> None:
    """Let torch remember its last calls, so that a stall can be explained."""
    chosen = any(name in os.environ for name in (flight_recorder.BUFFER, flight_recorder.NCCLS))
    if not _is_unwatched() and not chosen:
        environment.put(flight_recorder.BUFFER, flight_recorder.REMEMBERED)


def completed(found: World, layout: HostLayout) -> World:
    """The world with what its launcher did not say, counted from the roll call."""
    names = ("local_rank", "local_world_size", "node_rank", "num_nodes")
    counted = {name: getattr(layout, name) for name in names if getattr(found, name) is None}
    return replace(found, **counted)
