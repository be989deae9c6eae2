"""The parent's side of a warm template: orders ranks of it, and watches over them to the end."""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from allranks._launch.pipes import Pipes
from allranks._launch.remote_call import IncomingResult
from allranks._launch.template import MESSAGE, SHOW_STACKS
from allranks._system import huge_pages, processes, stacks, streams
from allranks._system.waiting import Deadline
from allranks.errors import RankFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Write = Callable[[int, int, bytes], None]
    Remind = Callable[[], float | None]

GRACE = 3.0
"""Seconds for the other ranks to end by themselves, when one has failed."""

STACKS_GRACE = 2.0
"""Seconds for the ranks to write their stacks, when they have not ended in time."""

QUIET = 0.2
"""Seconds without a further line after which a stack is taken to be whole."""


@dataclass
class RankResult:
    """How a rank ended, as its parent sees it.

    Attributes:
        rank: its rank.
        pid: its process id, once it has one.
        kind: "value", "error", or None where it ended without a word.
        value: its result, or its exception.
        status: its exit code, or minus a signal's number; None while it runs.
        at: when it told its exception or ended, on the monotonic clock.
        late: whether it had to be killed.
        stacks: the Python stacks of its threads, where they were asked for.
    """

    rank: int
    pid: int | None = None
    kind: str | None = None
    value: Any = None
    status: int | None = None
    at: float = 0.0
    late: bool = False
    stacks: bytes = field(default=b"", repr=False)

    @property
    def failure(self) -> BaseException | None:
        """Why it failed, or None."""
        if self.kind == "error":
            error: BaseException = self.value
            return error
        if self.kind == "value" and not self.ended_badly:
            return None
        when = "after" if self.kind == "value" else "before"
        told = f"rank {self.rank} (pid {self.pid}) {self.how} {when} it returned"
        return RankFailedError(told, rank=self.rank, exit_code=self.status or 0)

    @property
    def ended_badly(self) -> bool:
        """Whether it ended otherwise than with exit code 0, and not because we killed it."""
        return bool(self.status) and not self.late

    @property
    def how(self) -> str:
        """How it ended, for people."""
        return processes.exited(self.status or 0)

    @property
    def where(self) -> str:
        """Its stacks, for people."""
        written = stacks.threads_of_the_program(self.stacks.decode(errors="replace"))
        return written or "no answer: it is stopped, or cut off\n"


class TemplateClient:
    """A template, as the parent sees it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start a template.

        Args:
            command: what to start; our process id and the connection's descriptor follow.
        """
        self._control, theirs = map(_out_of_the_way, socket.socketpair(type=socket.SOCK_SEQPACKET))
        self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
            [*command, str(os.getpid()), str(theirs.fileno())],
            env=huge_pages.wanted(os.environ),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=None if streams.is_stream(1) else subprocess.DEVNULL,
            stderr=None if streams.is_stream(2) else subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    @property
    def alive(self) -> bool:
        """Whether it can take orders."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def close(self) -> None:
        """End it, and all that it has forked."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # A fork of this process may hold it, too.
        self._control.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self._process.kill()
        self._process.wait()

    def order(
        self,
        ranks: int,
        payload: int,
        write: Write,
        timeout: float | None = None,
        remind: Remind = lambda: None,
    ) -> list[RankResult]:
        """Fork ranks, and wait until all have ended.

        Args:
            ranks: how many.
            payload: the descriptor of a file that each of them reads.
            write: takes a rank, the stream (1 or 2) and what the rank wrote to it.
            timeout: seconds after which they show their stacks and are killed; None waits.
            remind: is called before each wait, as ``Pipes.before_waiting`` says.

        Raises:
            RankFailedError: the template itself ended.
        """
        job = _ForkedJob(ranks, self._control, write, math.inf if timeout is None else timeout)
        job.before_waiting(remind)
        try:
            job.begin(payload)
            job.watch()
        finally:
            try:
                job.end()
            except BaseException:
                self.close()  # What a second Ctrl-C left would be taken for the next job's.
                raise
            finally:
                job.close()
            if job.template_ended:
                self.close()
        return job.ranks


def _out_of_the_way(connection: socket.socket) -> socket.socket:
    """The same, under no standard stream's number: one that is closed leaves its number free."""
    with connection:
        return socket.socket(fileno=fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 3))


class _ForkedJob:
    """The ranks of one order."""

    def __init__(self, ranks: int, control: socket.socket, write: Write, timeout: float) -> None:
        self.ranks = [RankResult(rank) for rank in range(ranks)]
        self.template_ended = False
        self._control = control
        self._write = write
        self._deadline = Deadline.after(timeout)
        self._pipes = Pipes()
        self._pipes.listen(control, self._hear, last=True)

    @property
    def _running(self) -> list[RankResult]:
        return [rank for rank in self.ranks if rank.status is None]

    def before_waiting(self, remind: Remind) -> None:
        """Call a function before each wait for the ranks."""
        self._pipes.before_waiting(remind)

    def begin(self, payload: int) -> None:
        """Send the orders, with each rank's ends of its pipes."""
        for rank in self.ranks:
            result, theirs = socket.socketpair()
            pipes = [os.pipe() for _ in range(3)]
            writers = [writer for _, writer in pipes]
            order = {"do": "fork", "rank": rank.rank, "ranks": len(self.ranks)}
            with suppress(BrokenPipeError, ConnectionResetError):  # Heard as its end, in watch().
                text = json.dumps(order).encode()
                socket.send_fds(self._control, [text], [payload, theirs.fileno(), *writers])
            theirs.close()
            incoming = IncomingResult(result.detach())
            self._pipes.listen(incoming.file, functools.partial(self._receive, rank, incoming))
            for stream, (reader, writer) in enumerate(pipes, start=1):
                os.close(writer)
                self._pipes.listen(reader, functools.partial(self._read, rank, stream))

    def watch(self) -> None:
        """Pass on what the ranks write, until all have ended or their time is over."""
        while self._running and not self._deadline.passed:
            self._step(self._deadline.left)
        for rank in self._running:
            rank.late = True
        if self._running and not any(rank.failure for rank in self.ranks if not rank.late):
            self._ask_for_stacks()
        self._step(0)

    def _ask_for_stacks(self) -> None:
        self._signal(SHOW_STACKS)
        end, written = Deadline.after(STACKS_GRACE), -1
        while not end.passed and written < sum(len(rank.stacks) for rank in self._running):
            written = sum(len(rank.stacks) for rank in self._running)
            self._step(QUIET if all(rank.stacks for rank in self._running) else end.left)

    def _step(self, seconds: float) -> None:
        """React to what is there; to the template last, since a rank tells before it ends."""
        self._pipes.step(None if seconds == math.inf else seconds)

    def _hear(self, control: socket.socket) -> bool:
        """Take one message of the template: a rank has begun, or ended."""
        try:
            text = control.recv(MESSAGE)
        except ConnectionResetError:
            text = b""
        if not text:
            self.template_ended = True
            raise RankFailedError("the process that forks the ranks ended unexpectedly")
        facts = json.loads(text)
        rank = self.ranks[facts["rank"]]
        rank.pid = facts.get("pid", rank.pid)
        if "status" in facts:
            rank.status = facts["status"]
            rank.at = rank.at if rank.kind == "error" else time.monotonic()
            self._hurry_if_failed(rank)
        return True

    def _hurry_if_failed(self, rank: RankResult) -> None:
        if rank.failure:
            self._deadline = min(self._deadline, Deadline.after(GRACE), key=lambda one: one.at)

    def _receive(self, rank: RankResult, incoming: IncomingResult, _: int) -> bool:
        try:
            if incoming.take():
                return True
            rank.kind, rank.value = incoming.kind, incoming.value
        except (EOFError, ConnectionResetError):
            return False  # Its exit status tells why.
        except Exception as error:  # noqa: BLE001 - whatever the result's own class does
            rank.kind, rank.value = "error", error
        rank.at = time.monotonic()
        self._hurry_if_failed(rank)
        return False

    def _read(self, rank: RankResult, stream: int, pipe: int) -> bool:
        text = os.read(pipe, MESSAGE)
        if stream == 3:
            rank.stacks += text
        else:
            self._write(rank.rank, stream, text)
        return bool(text)

    def _signal(self, signum: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps({"do": "signal", "signal": signum}).encode())

    def end(self) -> None:
        """Leave no rank behind, however the watch ended."""
        if self._running:
            self._signal(signal.SIGKILL)
        self._control.settimeout(GRACE)
        try:
            while self._running and not self.template_ended:
                self._hear(self._control)
        except (OSError, RankFailedError):
            self.template_ended = True  # Or it is stopped; it takes the ranks along.
        self._control.settimeout(None)
        if self.template_ended:
            processes.end_sessions([rank.pid for rank in self._running if rank.pid])

    def close(self) -> None:
        """Close this side of the ranks' pipes."""
        self._pipes.ignore(self._control)
        self._pipes.close()
