"""The ranks of this host that can be asked: found by the names of their sockets."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._system import host_sockets, processes
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._watch.status_report import Door, JobReport

if TYPE_CHECKING:
    from allranks._watch.status_report import Question

SOCKETS = Path("/proc/net/unix")
"""Where Linux lists the unix sockets of this network namespace."""

LISTENS = 0x10000
"""The flag of a socket that listens, in that list."""


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        rank: who was asked.
        report: what it told, or None.
        pid: its process; 0 where that is not known.
        condition: what is seen of its process where it told nothing.
    """

    rank: int
    report: JobReport | None
    pid: int = 0
    condition: str = ""


def doors() -> list[Door]:
    """The sockets of this user's ranks on this host; for root, of everybody's."""
    with suppress(OSError):
        lines = SOCKETS.read_text(errors="replace").splitlines()[1:]
        found = {door for line in lines if (door := _door(line))}
        return sorted(door for door in found if os.getuid() in (0, door.user))
    return []


def _door(line: str) -> Door | None:
    """A rank's socket, of a line of the list; None if it is another one."""
    fields = line.split()
    with suppress(ValueError, IndexError):
        if int(fields[3], 16) & LISTENS:
            return Door.named(fields[7].removeprefix("@"))
    return None


def ask(door: Door, question: Question, seconds: float) -> Answer:
    """Ask a rank; one that is stopped, or whose process is another user's, tells nothing."""
    pid = 0
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError, MalformedError):
        connection.settimeout(seconds)
        connection.connect(f"\0{door.name}")
        if host_sockets.user_at(connection) != door.user:
            return Answer(door.rank, None)  # Somebody else has taken the name.
        pid = host_sockets.listener_at(connection)
        if processes.state(pid) not in ("T", "t"):
            connection.sendall(written(question).encode() + b"\n")
            text = _all_of(connection, time.monotonic() + seconds)
            return Answer(door.rank, parsed(JobReport, text), pid)
    return Answer(door.rank, None, pid, processes.condition(pid) if pid else "")


def _all_of(connection: socket.socket, end: float) -> bytes:
    said = b""
    while piece := connection.recv(1 << 20):
        said += piece
        connection.settimeout(max(0.001, end - time.monotonic()))
    return said
