"""The watch, as the program's own thread meets it; the thread is its other half."""

from __future__ import annotations

import concurrent.futures
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from allranks._system.typed_json import written
from allranks._system.words import tell
from allranks._watch import failures
from allranks._watch.event_log import (
    FIRST_LEFT,
    HEARD,
    LEFT,
    DepartureNote,
    EventLog,
    LogEntry,
    counted,
    left_note,
)
from allranks._watch.failures import Failure
from allranks._watch.store_client import unless_lost
from allranks._watch.thread import WatchThread
from allranks.errors import AllranksError, PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._watch.config import WatchConfig

LEAVING = 1.0
"""Seconds for which rank 0, when all leave, keeps the store open before it says that it closes."""

ANSWER = 3.5
"""Seconds that the thread may take for an answer, beside those that the ranks have."""


class Watch:
    """One rank's watch, from setup to cleanup."""

    def __init__(self, config: WatchConfig) -> None:
        """Become the active watch.

        Args:
            config: what it is given.
        """
        self._config = config
        self._rank = config.me.rank
        self._announced = False
        self._is_second = False
        self._thread = WatchThread(config)
        failures.set_active(self)

    @property
    def failure(self) -> Failure | None:
        """The first failure of the world that is known here."""
        return self._thread.failure

    @property
    def last_verdict(self) -> str:
        """The last verdict that was told; "" if there is none."""
        return self._thread.last_verdict

    @property
    def external_store(self) -> str:
        """Names the store where no rank serves it; else ""."""
        return self._config.external_store

    @property
    def cut_off(self) -> bool:
        """Whether the store does not answer, or is gone."""
        return self._thread.client.cut_off

    def come_up(self) -> None:
        """The process group is up."""
        failures.hear_uncaught()
        self._thread.come_up()

    def announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one fails; of several errors, the first."""
        if self._announced or (isinstance(error, SystemExit) and not error.code):
            return
        self._announced = True
        if self.failure is None and not isinstance(error, PeerFailedError):
            self._announce(error)
        if self._config.hosts_store:
            counted(
                self._thread.client.store,
                HEARD,
                self._config.world_size - 1,
                self._config.answer_timeout,
            )

    def _announce(self, error: BaseException) -> None:
        failure = Failure.of(error, self._rank, str(self._config.me))
        told = self._tell(LogEntry("failure", self._rank, failure=failure), unless="failure")
        first = next((one.failure for one in told if one.failure), None)
        self._is_second = first is not None and first.rank != self._rank
        try:
            self._thread.keep(str(failure), failure=asdict(failure))
        except Exception as trouble:  # noqa: BLE001 - the error that is announced matters more
            tell(f"warning: what {self._config.me} did last cannot be kept: {trouble!r}")

    def _tell(self, entry: LogEntry, unless: str) -> list[LogEntry]:
        """Post to the log from the program's own thread; all that it holds then."""
        log = EventLog(self._config.hosts_to_wake)
        unless_lost(lambda: log.post(self._thread.client.store, entry, unless))
        return [one.entry for one in log.unheard()]

    def echo(self, error: BaseException) -> str | None:
        """What this rank tells of an error that another rank tells in full; None if none does.

        The first rank of each host whose process runs tells the error; rank 0, whose output people
        read, before it where the other one stood; the others tell nothing.
        """
        heard = isinstance(error, PeerFailedError) or self._is_second or self.failure is not None
        if not (heard and isinstance(error, AllranksError)):
            return None
        if not self._thread.speaks_for_host():
            return ""
        before = getattr(error, "traceback", "") if self._rank == 0 else ""
        return f"{before}{type(error).__name__}: {error}\n"

    def find_lost_peer(self, among: Sequence[int] = ()) -> Failure | None:
        """Who of some ranks has closed a connection; takes seconds where it is not known yet."""
        found: Failure | None = self._ask(lambda: self._thread.search(among))
        return found

    def verdict(self) -> str:
        """What the ranks do instead of completing the collective; "" if unknown."""
        return self._ask(self._thread.judge) or ""

    def stop(self, how: str) -> None:
        """Go off duty, and tell the others that this rank leaves.

        Args:
            how: why it leaves.
        """
        failures.clear_active()
        self._thread.stop()
        if self._thread.client.cut_off or (self.failure is not None and _dies_of_an_error()):
            return  # All know why it leaves, and rank 0 may go at any moment, with its store.
        note = DepartureNote(str(self._config.me), time.time(), how)
        store = self._thread.client.store

        def leave() -> None:
            store.set(left_note(self._rank), written(note))
            store.compare_set(FIRST_LEFT, "", str(self._rank))
            store.add(LEFT, 1)

        unless_lost(leave)

    def see_others_off(self) -> None:
        """Keep the store until the others have left, for a moment at most."""
        if self._config.hosts_store and not self._thread.client.cut_off:
            failed = self._announced or self.failure is not None
            ranks = self._config.world_size - failed  # One that fails may never say that it leaves.
            if not counted(self._thread.client.store, LEFT, ranks, LEAVING):
                self._tell(LogEntry("closing", self._rank), unless="closing")
                counted(self._thread.client.store, LEFT, ranks, self._config.news_delay)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The thread's answer; None if it takes too long."""
        try:
            return self._thread.request(question).result(ANSWER + self._config.verdict_timeout)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return None


def _dies_of_an_error() -> bool:
    """Whether the interpreter has shown an exception that nobody caught."""
    return hasattr(sys, "last_value") or hasattr(sys, "last_exc")
