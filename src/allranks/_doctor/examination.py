"""The way of the doctor on each rank: detect, meet, tell the facts, try the routes, make a trial.

The ranks meet as they do in ``setup``, and tell each other in that store what they find, so that
rank 0 can say all of it once. Each stage ends by a deadline of its own, whoever is missing.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from allranks._doctor import start
from allranks._doctor.board import Board, BoardLostError
from allranks._doctor.checks import FAILURE, OK, Check, Place, fails, merged
from allranks._doctor.facts import Facts, own_facts, rows_of
from allranks._doctor.neighbours import looked_at
from allranks._doctor.report import Report
from allranks._doctor.routes import Endpoint, answering, tried
from allranks._doctor.trial import collective_rows, group_row
from allranks._process_group.bring_up import completed, gather_ranks, plan_meeting
from allranks._process_group.init_group import prepare_gloo
from allranks._process_group.intended_world import detected
from allranks._process_group.lifecycle import cleanup
from allranks._process_group.own_record import assign_device, own_record
from allranks._process_group.settings import Settings
from allranks._rendezvous import ports
from allranks._rendezvous.record import HostLayout
from allranks._system import peer_memory, processes
from allranks._system.sockets import LINK_LOCAL, LOOPBACK
from allranks._system.waiting import Deadline
from allranks._system.words import counted, named
from allranks.errors import AllranksError, DetectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._doctor.network import Interface
    from allranks._launchers.world import World
    from allranks._rendezvous.meeting import Meeting
    from allranks._rendezvous.plan import RendezvousPlan
    from allranks._rendezvous.record import RankRecord

    Show = Callable[[Report], None]

TO_MEET = 0.5
"""The part of all time in which the ranks must have met; the rest begins for all at once then."""

NEAR, HOSTS, BEEN, FACTS, TRIAL = 0.3, 0.35, 0.7, 0.75, 0.9
"""The parts of the rest until ranks of a host have tried each other's memory, hosts have told where
they listen, all have been there, all facts are told, and the trial is over. Who waits for one that
is silent still tells its own facts in time."""

STEP = 0.1
"""The part of the rest for a step of a route; one that fails takes two and four halves."""

LINGER = 2.0
"""Seconds by which others leave later than who speaks: a launcher ends all once one has failed."""


DONE = "done"
"""What a rank tells of something that only has to be over."""


@dataclass(frozen=True)
class Word:
    """What rank 0 tells the others.

    Attributes:
        fails: whether the job would fail, as far as is known.
    """

    fails: bool


@dataclass(frozen=True)
class Trial:
    """What came of a rank's trial."""

    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Member:
    """What a rank knows once it has met the others.

    Attributes:
        world: its world.
        me: its record.
        layout: who shares its host.
        meeting: where they met; None in a world of one.
        deadline: when all must be over.
    """

    world: World
    me: RankRecord
    layout: HostLayout
    meeting: Meeting | None
    deadline: Deadline

    @property
    def place(self) -> Place:
        """Where this rank is."""
        return Place(self.world.rank, self.me.host, self.layout.node_rank)

    @property
    def leads(self) -> bool:
        """Whether it is the first of its host."""
        return self.layout.local_rank == 0

    def by(self, part: float) -> Deadline:
        """When a part of the time is over."""
        return Deadline.after(max(0.0, self.deadline.left - (1 - part) * self.deadline.seconds))


def examine(seconds: float, show: Show) -> int:
    """Look at the job of which this process is a rank. Collective.

    Args:
        seconds: the time that it may take.
        show: shows a report; called on rank 0, or on each host where rank 0 is out of reach.

    Returns:
        The exit code, the same on all ranks that have met: 1 if the job would fail.
    """
    meet = Deadline.after(TO_MEET * seconds)
    wanted = _settings(seconds)
    try:
        world = detected(wanted)
    except DetectionError as error:
        report = Report("this process", (start.undetected(error),))
        return _alone(report, show, speaks=start.looks_first())
    with ExitStack() as undo:
        plan = None
        try:
            world, plan = plan_meeting(wanted, meet)
            me = replace(own_record(wanted, world), backend="")  # A row tells of a shared GPU.
            began = time.monotonic()
            me, meeting, layout = gather_ranks(plan, me, wanted, world, meet, undo)
        except AllranksError as error:
            return _apart(error, world, plan, wanted, show)
        rest = Deadline.after((1 - TO_MEET) * seconds)
        member = Member(completed(world, layout), me, layout, meeting, rest)
        row = start.met(member.world, meeting, time.monotonic() - began)
        return _together(member, row, wanted, show)


def _settings(seconds: float) -> Settings:
    patience = timedelta(seconds=(1 - TO_MEET) * seconds * TRIAL)
    return Settings(timeout=patience, rendezvous_timeout=timedelta(seconds=TO_MEET * seconds))


def _apart(
    error: AllranksError, world: World, plan: RendezvousPlan | None, wanted: Settings, show: Show
) -> int:
    """The ranks did not meet: rank 0 says what it knows; each host's first one, what is wrong."""
    place = Place(world.rank, socket.gethostname())
    facts = own_facts(place, world, wanted, leads=not world.local_rank)
    rows = rows_of([facts], whole=world.world_size == 1)
    if world.rank:
        rows = [row for row in rows if row.status != OK]
    if world.rank == 0 or rows or not start.is_rank_0_s_word(error):
        rows.append(start.unmet(error, world, plan))
    whose = f"rank {world.rank} of {world.world_size}, on {place.host}"
    report = Report(whose, tuple(rows), "Not tried, as the ranks did not meet: all that takes two.")
    speaks = world.rank == 0 or (not world.local_rank and bool(rows))
    return _alone(report, show, speaks=speaks)


def _alone(report: Report, show: Show, *, speaks: bool) -> int:
    """Speak, or leave it to the one who does."""
    if speaks:
        show(report)
    else:
        time.sleep(LINGER)
    return 1


def _together(member: Member, row: Check, wanted: Settings, show: Show) -> int:
    """The ranks have met, and have a board between them."""
    import torch.distributed as dist

    board = Board(member.meeting.store if member.meeting else dist.HashStore())
    facts = _own_facts(member, wanted)
    try:
        _tell_facts(facts, member, board)
        if member.world.rank == 0:
            return _judged(member, board, row, wanted, show)
        return _followed(member, board, wanted)
    except BoardLostError as error:
        return _lost(member, facts, error, show)


def _own_facts(member: Member, wanted: Settings) -> Facts:
    return own_facts(
        member.place,
        member.world,
        wanted,
        leads=member.leads,
        gpu=member.me.device_uuid or "",
        address=LOOPBACK if member.layout.num_nodes == 1 else member.layout.address,
    )


def _tell_facts(facts: Facts, member: Member, board: Board) -> None:
    """Tell this rank's facts, with those that take another rank."""
    facts = _with_neighbour(facts, member, board)
    if member.leads and member.layout.num_nodes > 1:
        facts = _with_routes(facts, member, board)
    board.tell(f"facts/{member.world.rank}", facts)


def _with_neighbour(facts: Facts, member: Member, board: Board) -> Facts:
    """Each rank tries the next one of its host; its secret must live until that one has tried."""
    here, rank = member.layout.here, member.world.rank
    if len(here) == 1:
        return facts
    where = processes.pid_space()
    probe, secret = peer_memory.present(where)
    board.tell(f"probe/{rank}", probe)
    following = here[(here.index(rank) + 1) % len(here)]
    theirs = board.hear_one(peer_memory.MemoryProbe, f"probe/{following}", member.by(NEAR))
    facts = replace(facts, neighbour=looked_at(theirs, where))
    board.tell(f"tried/{rank}", DONE)
    board.hear_one(str, f"tried/{here[here.index(rank) - 1]}", member.by(NEAR))
    del secret
    return facts


def _with_routes(facts: Facts, member: Member, board: Board) -> Facts:
    """Go to the other hosts, and stay until they have been here."""
    layout = member.layout
    node, hosts = layout.node_rank, range(layout.num_nodes)
    with answering(node, ports.allowed(os.environ)) as port:
        interface, address = _address(facts.network.interfaces, layout.address)
        own = Endpoint(node, facts.place.host, address, port, interface)
        board.tell(f"host/{node}", own)
        told = board.hear(Endpoint, [f"host/{one}" for one in hosts], member.by(HOSTS))
        everybody = [one for one in told if one]
        found = tried(node, everybody, STEP * member.deadline.seconds)
        board.tell(f"been/{node}", DONE)
        board.hear(str, [f"been/{one}" for one in hosts], member.by(BEEN))
    return replace(facts, routes=found)


def _address(interfaces: Sequence[Interface], on_the_way: str | None) -> tuple[str, str]:
    """The interface over which gloo will talk, and an address that others reach.

    Args:
        interfaces: those that are asked for.
        on_the_way: the address that leads to rank 0, which is taken where no other was asked for.
    """
    for one in interfaces:
        usable = [a for a in one.addresses if not a.startswith(LINK_LOCAL)]
        if usable:
            return one.name, on_the_way if on_the_way in usable else usable[0]
    return "", on_the_way or ""


def _judged(member: Member, board: Board, row: Check, wanted: Settings, show: Show) -> int:
    """Rank 0: hear all, decide whether to go on, and say it."""
    everybody = range(member.world.world_size)
    told = board.hear(Facts, [f"facts/{rank}" for rank in everybody], member.by(FACTS))
    heard = [one for one in told if one]
    rows = [*rows_of(heard, whole=len(heard) == len(everybody)), row]
    if silent := [rank for rank in everybody if told[rank] is None]:
        rows.append(_silence(silent))
    stops = fails(rows)
    board.tell("word", Word(stops))
    if not stops:
        rows += _tried_by_all(member, board, wanted, [one.place for one in heard])
    not_tried = "Not tried, since the job would fail before: its group and collectives." * stops
    report = Report(_whole(member), tuple(rows), not_tried)
    show(report)
    with suppress(BoardLostError):  # All is said.
        board.tell("end", Word(report.fails))
        board.hear(str, [f"left/{rank}" for rank in everybody[1:]], Deadline.after(LINGER))
    return int(report.fails)


def _tried_by_all(
    member: Member, board: Board, wanted: Settings, places: Sequence[Place]
) -> list[Check]:
    """The trial's rows of all ranks, each thing said once."""
    own = _trial(member, wanted)
    others = places[1:]
    told = board.hear(Trial, [f"trial/{place.rank}" for place in others], member.by(1.0))
    heard = {place: one.checks for place, one in zip(others, told, strict=True) if one}
    silent = [place.rank for place in others if place not in heard]
    return [*merged({places[0]: own, **heard}), *([_silence(silent)] if silent else [])]


def _trial(member: Member, wanted: Settings) -> tuple[Check, ...]:
    """Bring the group up and use it, as the job will."""
    if member.me.device is None:
        assign_device(wanted, member.world)
    prepare_gloo(member.layout, member.world.world_size)
    end = member.by(TRIAL)
    group = group_row(wanted, member.world, member.meeting, end)
    calls = collective_rows(member.world, end) if group.status == OK else ()
    rows = (group, *calls)
    if not fails(rows):  # Else a call may be under way, and the end of the process ends it.
        cleanup()
    return rows


def _silence(ranks: Sequence[int]) -> Check:
    seen = f"no word from {named(ranks)} in time"
    return Check("ranks", FAILURE, seen, "allranks doctor --timeout 300")


def _whole(member: Member) -> str:
    ranks = counted(member.world.world_size, "rank")
    return f"{ranks} on {counted(member.layout.num_nodes, 'host')}, as rank 0 sees them"


def _followed(member: Member, board: Board, wanted: Settings) -> int:
    """Another rank than 0: do as that one says."""
    rank = member.world.rank
    word = board.hear_one(Word, "word", member.by(1.0))
    if word and not word.fails:
        board.tell(f"trial/{rank}", Trial(_trial(member, wanted)))
    end = board.hear_one(Word, "end", member.by(1.0)) if word else None
    if end is None:
        raise BoardLostError("rank 0 says nothing any more")
    board.tell(f"left/{rank}", DONE)
    return int(end.fails)


def _lost(member: Member, facts: Facts, error: BoardLostError, show: Show) -> int:
    """The board is gone: what this rank knows, if it is the first of its host."""
    seen = f"the store in which the ranks met is lost: {error}"
    row = Check("rank 0", FAILURE, seen, "allranks doctor --timeout 300")
    known = [one for one in rows_of([facts], whole=False) if one.status != OK]
    place = member.place
    report = Report(f"rank {place.rank}, on {place.host}", (*known, row))
    return _alone(report, show, speaks=member.leads)
