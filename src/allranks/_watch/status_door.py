"""Where ``allranks status`` comes to a rank: an abstract unix socket, which needs no port or file.

Only this user's processes, and root's, are answered. A thread of its own hears each of them, so
that whoever says nothing holds up nobody; the watch's thread answers.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from allranks._system import host_sockets, variables
from allranks._system.typed_json import MalformedError, parsed, written
from allranks._watch.status_report import Door, Question

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any, TypeAlias

    from allranks._watch.config import WatchConfig
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.status_report import JobReport

    Request: TypeAlias = Callable[[Callable[[], Any]], Future[Any]]
    """Has something done by the watch's thread."""

SWITCH = "ALLRANKS_STATUS"
"""The variable that turns this off: 0."""

PATIENCE = 5.0
"""Seconds in which a question must have come."""

LONGEST = 4096
"""Bytes of a question, at most."""

GUESTS = 8
"""How many are heard at the same time; the others wait."""


class StatusDoor:
    """The socket of one rank."""

    def __init__(self, config: WatchConfig, peers: LocalPeers) -> None:
        """Listen, where that is allowed and possible.

        Args:
            config: what the watch was given.
            peers: wakes the watch when somebody comes.
        """
        self._peers = peers
        self._places = threading.BoundedSemaphore(GUESTS)
        self._listener = _listening(config)
        if self._listener:
            peers.hear(self._listener)

    def let_in(self, request: Request, report: Callable[[Question], JobReport]) -> None:
        """Begin to hear those who have come.

        Args:
            request: has a report made by the watch's thread.
            report: makes it.
        """
        while self._listener and self._places.acquire(blocking=False):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # Nobody, or no descriptor left.
                self._places.release()
                return
            guest = _Guest(connection, self._places, request, report)
            threading.Thread(target=guest.serve, name="allranks-status", daemon=True).start()

    def close(self) -> None:
        """Let nobody in any more."""
        if self._listener:
            self._peers.unhear(self._listener)
            self._listener.close()
            self._listener = None


class _Guest:
    """Somebody who has come."""

    def __init__(
        self,
        connection: socket.socket,
        places: threading.BoundedSemaphore,
        request: Request,
        report: Callable[[Question], JobReport],
    ) -> None:
        self._connection = connection
        self._places = places
        self._request = request
        self._report = report

    def serve(self) -> None:
        """Hear a question and answer it; whatever else is said is answered with silence."""
        try:
            with self._connection, suppress(OSError, MalformedError):
                if not _may_ask(self._connection):
                    return
                self._connection.settimeout(PATIENCE)
                question = parsed(Question, _line_from(self._connection))
                told = self._request(lambda: self._report(question)).result()
                self._connection.sendall(written(told).encode() + b"\n")
        except Exception:  # noqa: BLE001 - the rank leaves, and nobody needs its answer
            return
        finally:
            self._places.release()


def _listening(config: WatchConfig) -> socket.socket | None:
    if variables.is_off(SWITCH) or not host_sockets.allowed():
        return None
    door = Door.of(config.me, config.rank_0 or config.me)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"\0{door.name}")
        listener.listen(GUESTS)
    except OSError:
        listener.close()
        return None
    listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return listener


def _may_ask(connection: socket.socket) -> bool:
    return host_sockets.user_at(connection) in (0, os.getuid())


def _line_from(connection: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n") and len(said) < LONGEST:
        piece = connection.recv(LONGEST)
        if not piece:
            break
        said += piece
    return said
