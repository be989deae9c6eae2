"""All ranks of a world come together: first those of each host, then all in the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allranks._rendezvous import host_meeting
from allranks._rendezvous.host_meeting import AgentWord
from allranks._rendezvous.judge import LINGER
from allranks._rendezvous.meet import meet
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.record import StoreMovesError, pack, revive
from allranks._rendezvous.roll_call import RollCall
from allranks._rendezvous.store_search import answers_in
from allranks._rendezvous.tcp_store import Route, reason, reconnected
from allranks._system import descriptors, processes
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks._system.words import tell
from allranks.errors import RendezvousError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from allranks._rendezvous.host_meeting import HostAgent
    from allranks._rendezvous.plan import RendezvousPlan
    from allranks._rendezvous.record import HostVerdict, RankRecord
    from allranks._system.waiting import Deadline


@dataclass(frozen=True)
class Company:
    """What a rank knows of its world before it meets the others.

    Attributes:
        here: how many ranks its host has, or None.
        descriptors: how many the world will surely need in the process of rank 0, which hosts
            the store.
    """

    here: int | None = None
    descriptors: int = 0


def gather(
    plan: RendezvousPlan, me: RankRecord, company: Company, deadline: Deadline, undo: ExitStack
) -> tuple[Meeting, HostVerdict]:
    """The ranks meet; once more, where rank 0 finds that not all come from its host. Collective.

    Args:
        plan: how to meet, the same on all ranks.
        me: this rank's record.
        company: what it knows of the others.
        deadline: when to give up.
        undo: takes the meeting down, unless the caller keeps it.

    Raises:
        RendezvousError: one of its kinds, which names the ranks at fault.
    """
    try:
        return _gather_once(plan, me, company, deadline, undo)
    except StoreMovesError:
        if me.rank == 0:
            tell(
                f"note: not all ranks have come, and {plan.hosts[0]}, rank 0's address, means this "
                "host alone; listening for ranks of other hosts, too"
            )
    return gather(replace(plan, near_first=False), me, company, deadline, undo)


def _gather_once(
    plan: RendezvousPlan, me: RankRecord, company: Company, deadline: Deadline, undo: ExitStack
) -> tuple[Meeting, HostVerdict]:
    found = host_meeting.attend(plan, me, company.here, deadline)
    if isinstance(found, AgentWord):
        return _follow(found, me, deadline)
    if found is None:
        return go_to_the_store(plan, me, company, None, deadline, undo)
    try:
        return go_to_the_store(plan, me, company, found, deadline, undo)
    finally:
        found.close()


def go_to_the_store(
    plan: RendezvousPlan,
    me: RankRecord,
    company: Company,
    agent: HostAgent | None,
    deadline: Deadline,
    undo: ExitStack,
) -> tuple[Meeting, HostVerdict]:
    """Answer the roll call, and pass on what is heard there; ``gather`` says of what.

    Args:
        plan: how to meet.
        me: this rank's record.
        company: what it knows of the others.
        agent: those for whom this rank goes, or None.
        deadline: when to give up.
        undo: takes the meeting down.
    """
    meeting, word = None, AgentWord()
    try:
        meeting = _met(plan, me, company, deadline, undo)
        word = _word_from(meeting)
        verdict = call_the_roll(meeting, me, deadline, agent, near_first=plan.near_first)
    except RendezvousError as error:
        if meeting:
            meeting.take_down()
        if agent:
            agent.pass_on(replace(word, error=pack(error)))
        raise
    if agent:
        agent.pass_on(replace(word, verdict=verdict))
    return meeting, verdict


def _met(
    plan: RendezvousPlan, me: RankRecord, company: Company, deadline: Deadline, undo: ExitStack
) -> Meeting:
    if me.rank == 0:
        descriptors.make_room(company.descriptors)
    meeting = meet(plan, me, deadline)
    undo.callback(meeting.take_down)
    meeting.descriptors_needed = company.descriptors if meeting.server else 0
    if meeting.signature:
        answers_in(meeting.signature.nonce, me)
    return meeting


def _word_from(meeting: Meeting) -> AgentWord:
    """What those who come to this rank must know of the store, beside the verdict."""
    nonce = meeting.signature.nonce if meeting.signature else ""
    host = meeting.route.there if meeting.route else ""
    return AgentWord(nonce, host, meeting.port, meeting.place)


def _follow(word: AgentWord, me: RankRecord, deadline: Deadline) -> tuple[Meeting, HostVerdict]:
    """Take this host's agent at its word, and connect to the store, where torch's group is made."""
    answers_in(word.nonce, me)
    if word.error or not word.verdict:
        raise revive(word.error) if word.error else RendezvousError(f"{me}: its agent told nothing")
    verdict = word.verdict
    try:
        store = reconnected(word.host, word.port, deadline)
    except (StillRunning, OSError, RuntimeError) as error:
        raise _cut_off(me, verdict.rank_0, word.place, reason(error)) from error
    route = Route(verdict.address or "", word.host)
    return Meeting(store, word.place, route, port=word.port), verdict


def _cut_off(me: RankRecord, first: RankRecord, place: str, why: str) -> RendezvousError:
    near = first.pid_space == me.pid_space
    condition = processes.condition(first.pid) if near else ""
    return RendezvousError(
        f"{me}: all ranks have answered the roll call, but the store of {first} at {place} does "
        f"not answer this one: {why}{condition and f'; {condition}'}. Its own log may say why."
    )


def call_the_roll(
    meeting: Meeting,
    me: RankRecord,
    deadline: Deadline,
    agent: HostAgent | None = None,
    *,
    near_first: bool = False,
) -> HostVerdict:
    """Where the ranks are, by the roll call. Collective.

    Args:
        meeting: where they meet.
        me: this rank's record.
        deadline: when to give up.
        agent: for whom else this rank answers, or None.
        near_first: whether other hosts cannot reach the store yet, and may have to.
    """
    roll_call = RollCall(meeting, me, deadline, agent, near_first=near_first)
    try:
        return BackgroundCall(roll_call.answer).result(deadline.left + 2 * LINGER)
    except StillRunning:
        store = meeting.external_store or f"the store at {meeting.place}"
        who = "what keeps it" if meeting.external_store else "rank 0"
        raise RendezvousError(
            f"{me}: {store} stopped answering during the roll call; is the network cut, or {who} "
            "stopped?"
        ) from None
