"""How ranks of one host come together before they go to the store: one of them goes for all.

Whoever first takes a name that all of them know, among the abstract unix sockets of the host,
is their agent: it brings the records of the others to the store and passes on what it hears. It
need not know how many they are. A rank that finds no agent goes by itself, and so does one whose
agent is stopped, or leaves without a word. Rank 0 has no agent, and is nobody's: it hosts the
store.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._rendezvous.record import HostVerdict, PackedError, RankRecord
from allranks._system import host_sockets, processes
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.version import __version__
from allranks._system.waiting import Deadline
from allranks.errors import RendezvousError

if TYPE_CHECKING:
    from allranks._rendezvous.plan import RendezvousPlan

GATHER = 5.0
"""Seconds in which the others of a host come to their agent, where it knows how many they are; a
quarter of the deadline, where that is less."""

GATHER_UNKNOWN = 1.0
"""The same where it does not, and they keep coming."""

QUIET = 0.03
"""Seconds without another one after which it goes, where it does not; who comes later, follows."""

TRIES, PAUSE = 200, 0.01
"""How often a rank looks for its agent, and seconds in between, before it goes by itself."""

GRACE = 5.0
"""Seconds beyond its own deadline that a rank waits for its agent's word."""

LOOK_EVERY = 0.5
"""Seconds after which a rank that waits for its agent looks whether that is stopped."""

PIECE = 1 << 16


@dataclass(frozen=True)
class AgentWord:
    """What an agent passes on.

    Attributes:
        nonce: of the store in which it has answered for all; "" if it has found none.
        host: the numeric address of that store.
        port: its port.
        place: names it for people.
        verdict: how the roll call has ended, or None where it has failed.
        error: why it has failed, or None.
    """

    nonce: str = ""
    host: str = ""
    port: int = 0
    place: str = ""
    verdict: HostVerdict | None = None
    error: PackedError | None = None


@dataclass
class _Visitor:
    """A rank that has come to the agent."""

    connection: socket.socket
    said: bytes = b""
    row: RankRecord | None = None


class HostAgent:
    """The rank that goes to the store for all of its host who come to it.

    Attributes:
        closed: whether nobody can come any more.
    """

    def __init__(self, listener: socket.socket, here: int | None, world_size: int) -> None:
        """Let nobody in yet.

        Args:
            listener: where they come.
            here: how many ranks the host has, or None.
            world_size: how many the world has.
        """
        self._listener = listener
        self._here = here
        self._world_size = world_size
        self._visitors: dict[int, _Visitor] = {}
        self.closed = False
        self._caller, self._called = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._called, select.POLLIN)

    def gathered(self, rank_0: RankRecord, me: RankRecord, deadline: Deadline) -> list[RankRecord]:
        """The records of those who come soon: all of the host, where their number is known."""
        elsewhere = 2 if rank_0.host_key == me.host_key else 1
        most = (self._here or self._world_size) - elsewhere
        patience = min(GATHER, deadline.seconds / 4) if self._here else GATHER_UNKNOWN
        end, rows = Deadline.after(patience), list[RankRecord]()
        while len(rows) < most and not end.passed:
            came = self.newcomers(end.left if self._here else QUIET)
            if not came and not self._here:
                break
            rows += came
        return rows

    def newcomers(self, seconds: float | None) -> list[RankRecord]:
        """The records that came since the last time; waits for some.

        Args:
            seconds: how long to wait; None until ``wake``.
        """
        rows = []
        for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._listener.fileno():
                self._let_in()
            elif descriptor in self._visitors and (row := self._heard(descriptor)):
                rows.append(row)
        return rows

    def wake(self) -> None:
        """End the waiting of ``newcomers``, from another thread, for good."""
        with suppress(OSError):
            self._caller.send(b"!")

    def _let_in(self) -> None:
        with suppress(OSError):  # It has left again.
            connection, _ = self._listener.accept()
            if host_sockets.process_at(connection) is None:
                connection.close()
                return
            connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self._visitors[connection.fileno()] = _Visitor(connection)
            self._poll.register(connection, select.POLLIN)

    def _heard(self, descriptor: int) -> RankRecord | None:
        """A visitor's record, once it is there as a whole; one that leaves, or tells else, goes."""
        visitor = self._visitors[descriptor]
        with suppress(OSError, MalformedError):
            piece = visitor.connection.recv(PIECE)
            visitor.said += piece
            if piece and not visitor.said.endswith(b"\n"):
                return None
            if piece:
                visitor.row = parsed(RankRecord, visitor.said)
                self._poll.unregister(descriptor)
                return visitor.row
        self._poll.unregister(descriptor)
        self._visitors.pop(descriptor).connection.close()
        return None

    def pass_on(self, word: AgentWord) -> None:
        """Tell a word to all whom it concerns, and close; nobody else can come from now on."""
        self._shut_the_door()
        text = written(word).encode() + b"\n"
        for visitor in self._visitors.values():
            row = visitor.row
            if row and (word.verdict is None or word.verdict.holds(row)):
                with suppress(OSError):  # It has left, or is stopped.
                    visitor.connection.settimeout(LOOK_EVERY)
                    visitor.connection.sendall(text)
        self.close()

    def _shut_the_door(self) -> None:
        """First of all: who hears the word may soon look for its agent of the next meeting."""
        self._listener.close()

    def close(self) -> None:
        """Let go of all; who has heard nothing finds another agent."""
        self.closed = True
        self.wake()
        self._shut_the_door()
        for visitor in self._visitors.values():
            visitor.connection.close()
        self._visitors.clear()
        self._caller.close()
        self._called.close()


class HostVisitor:
    """A rank that has come to its host's agent."""

    def __init__(self, connection: socket.socket, agent: int) -> None:
        """Say nothing yet.

        Args:
            connection: leads to the agent.
            agent: its process, or 0 where that cannot be seen.
        """
        self._connection = connection
        self._agent = agent

    def say(self, me: RankRecord) -> None:
        """Tell this rank's record."""
        with suppress(OSError):  # It has just left; ``hear`` finds out.
            self._connection.sendall(written(me).encode() + b"\n")

    def hear(self, me: RankRecord, deadline: Deadline) -> AgentWord | None:
        """What the agent passes on; None where it leaves without a word, or is stopped.

        Raises:
            RendezvousError: it gives no answer.
        """
        end, said = Deadline.after(deadline.left + GRACE), b""
        with self._connection, suppress(ConnectionError, MalformedError):
            while not end.passed:
                try:
                    piece = self._connection.recv(PIECE)
                except TimeoutError:
                    if self.agent_is_stopped:
                        return None
                    continue
                said += piece
                if said.endswith(b"\n"):
                    return parsed(AgentWord, said)
                if not piece:
                    return None
            raise self._unanswered(me, deadline)
        return None

    @property
    def agent_is_stopped(self) -> bool:
        """Whether the agent can be seen to be stopped, or in a debugger."""
        return processes.state(self._agent) in ("T", "t")

    def _unanswered(self, me: RankRecord, deadline: Deadline) -> RendezvousError:
        told = processes.condition(self._agent) if self._agent else ""
        return RendezvousError(
            f"{me}: the process with pid {self._agent}, which goes to rank 0 for the ranks of this "
            f"host, gave no answer within {deadline.seconds:g} s{f'; {told}' if told else ''}."
        )


def attend(
    plan: RendezvousPlan, me: RankRecord, here: int | None, deadline: Deadline
) -> HostAgent | AgentWord | None:
    """Become this host's agent, or hear from it how the roll call has ended.

    Args:
        plan: how the ranks will meet.
        me: this rank's record.
        here: how many ranks this host has, or None.
        deadline: when to give up.

    Returns:
        The agent, which the caller must close; or its word; or None for a rank on its own.

    Raises:
        RendezvousError: the agent gives no answer.
    """
    for _ in range(TRIES):
        found = find(plan, me, here)
        if not isinstance(found, HostVisitor):
            return found
        found.say(me)
        if word := found.hear(me, deadline):
            return word
        if found.agent_is_stopped:
            return None
        time.sleep(PAUSE)
    return None


def find(plan: RendezvousPlan, me: RankRecord, here: int | None) -> HostAgent | HostVisitor | None:
    """This host's agent, which this rank is or visits; None where neither can be."""
    if me.rank == 0 or not host_sockets.allowed() or not (plan.hosts or plan.board):
        return None
    name = _name(plan, me)
    for _ in range(TRIES):
        if listener := _listener(name):
            return HostAgent(listener, here, me.world_size)
        if connection := _connection(name):
            agent = host_sockets.process_at(connection)
            if agent is not None:
                return HostVisitor(connection, agent)
            connection.close()
            return None  # Another user has taken the name.
        time.sleep(PAUSE)
    return None


def _name(plan: RendezvousPlan, me: RankRecord) -> bytes:
    """What ranks of one job on one host share before they meet, and of one release."""
    where = (plan.hosts, plan.ports, plan.board)
    told = (os.getuid(), me.host_key, me.job, me.world_size, where, __version__)
    return b"\0allranks-" + hashlib.sha256(repr(told).encode(errors="replace")).hexdigest().encode()


def _listener(name: bytes) -> socket.socket | None:
    """Where the agent listens; None where another rank has the name, or there are no such."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(name)
        listener.listen(socket.SOMAXCONN)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def _connection(name: bytes) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(LOOK_EVERY)
        connection.connect(name)
    except OSError:
        connection.close()
        return None  # It has just left, or does not listen yet.
    return connection
