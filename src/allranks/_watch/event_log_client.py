"""Follows the event log: what has failed, who asks, which verdict was told."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.waiting import Deadline
from allranks._system.words import tell
from allranks._watch.event_log import HEARD, EventLog, LogEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._watch.config import WatchConfig
    from allranks._watch.failures import Failure
    from allranks._watch.store_client import StoreClient


class EventHandlers(NamedTuple):
    """What is to be done at an entry of the log.

    Attributes:
        failure: at the first failure of another rank.
        question: at the name of an inquiry: this rank is to tell where it stands.
        verdict: at a verdict.
    """

    failure: Callable[[Failure], None]
    question: Callable[[str], None]
    verdict: Callable[[str], None]


class EventLogClient:
    """What this rank has read in the event log.

    Attributes:
        failure: the first failure of another rank, or None.
        stopping: whether nobody needs to hear any more.
    """

    def __init__(self, config: WatchConfig, client: StoreClient, handlers: EventHandlers) -> None:
        """Begin to read; nothing is sent yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            handlers: what is to be done at each kind of entry.
        """
        self.failure: Failure | None = None
        self.stopping = False
        self._config = config
        self._client = client
        self._log = EventLog()
        self._handlers = handlers

    def fetch(self) -> None:
        """Read the entries since the last look, and react to them."""
        self._client.ask(self._log.fetch, None)
        self._hear()

    def post(self, entry: LogEntry, unless: str) -> None:
        """Add an entry to the log, and react to those before it.

        Args:
            entry: what is added.
            unless: the kind of entry that makes this one needless, if it is there before.
        """
        self._client.ask(lambda store: self._log.post(store, entry, unless=unless), None)
        self._hear()

    def publish(self, failure: Failure) -> None:
        """Tell all of another rank's failure, unless they know of one; else just this one."""
        self.post(LogEntry("failure", self._config.me.rank, failure=failure), unless="failure")
        self._hear_failure(failure)

    def wait_for(self, is_there: Callable[[], bool], seconds: float) -> None:
        """Wait for what other ranks tell, and hear the news meanwhile.

        Raises:
            CancelledError: this rank is leaving: nobody waits for it, and what is there by now
                would be of too few ranks.
        """
        end = Deadline.after(seconds)
        while not is_there() and not end.passed and not self._client.cut_off:
            if self.stopping:
                raise CancelledError
            time.sleep(self._config.hurried_interval)
            self.fetch()

    def _hear(self) -> None:
        """React to each entry once, in the order that is the same on all ranks."""
        for entry in self._log.unheard():
            if entry.failure:
                self._hear_failure(entry.failure)
            elif entry.kind == "who":
                self._handlers.question(entry.inquiry)
            elif entry.kind == "closing":
                self._client.lost = "rank 0 has left, and its store with it"
            elif entry.kind == "verdict":
                self._handlers.verdict(entry.text)
            else:
                tell(f"warning: an entry of the watches' log cannot be read: {entry.text}")

    def _hear_failure(self, failure: Failure) -> None:
        if self.failure is not None or failure.rank == self._config.me.rank:
            return
        self.failure = failure
        self._client.ask(lambda store: store.add(HEARD, 1), 0)
        self._handlers.failure(failure)
