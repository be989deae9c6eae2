"""The watch, as the program's own thread meets it; the thread is its other half."""

from __future__ import annotations

import concurrent.futures
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
from allranks.errors import PeerFailedError

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
            self._keep_store(HEARD, self._config.world_size - 1, self._config.answer_timeout)

    def _announce(self, error: BaseException) -> None:
        failure = Failure.of(error, self._rank, str(self._config.me))
        self._tell(LogEntry("failure", self._rank, failure=failure), unless="failure")
        try:
            self._thread.keep(str(failure), failure=asdict(failure))
        except Exception as trouble:  # noqa: BLE001 - the error that is announced matters more
            tell(f"warning: what {self._config.me} did last cannot be kept: {trouble!r}")

    def _tell(self, entry: LogEntry, unless: str) -> None:
        """Post to the log from the program's own thread."""
        unless_lost(lambda: EventLog().post(self._thread.client.store, entry, unless))

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
        if self._thread.client.cut_off:
            return
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
            if not self._keep_store(LEFT, ranks, LEAVING):
                self._tell(LogEntry("closing", self._rank), unless="closing")
                self._keep_store(LEFT, ranks, self._config.look_interval)

    def _keep_store(self, count: str, ranks: int, seconds: float) -> bool:
        """Keep the store until so many ranks have counted themselves; whether they have."""
        return counted(self._thread.client.store, count, ranks, seconds)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The thread's answer; None if it takes too long."""
        try:
            return self._thread.request(question).result(ANSWER + self._config.verdict_timeout)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return None
