"""Follows the event log: what has failed, who asks, which verdict was told."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, NamedTuple

from allranks._system.waiting import Deadline
from allranks._system.words import tell
from allranks._watch.event_log import CLOSED, HEARD, EventLog, LogEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._watch.config import WatchConfig
    from allranks._watch.failures import Failure
    from allranks._watch.news import News
    from allranks._watch.store_client import StoreClient


SHORTEST, LONGEST = 0.02, 0.25
"""Seconds between two questions whether something is there."""


class EventHandlers(NamedTuple):
    """What is to be done at an entry of the log.

    Attributes:
        failure: at the first failure of another rank.
        question: at an inquiry: this rank is to tell where it stands.
        verdict: at a verdict.
    """

    failure: Callable[[Failure], None]
    question: Callable[[LogEntry], None]
    verdict: Callable[[LogEntry], None]


class EventLogClient:
    """What this rank has heard of the event log, and hands on to others of its host.

    Attributes:
        failure: the first failure of another rank, or None.
        stopping: whether nobody needs to hear any more.
    """

    def __init__(
        self, config: WatchConfig, client: StoreClient, news: News, handlers: EventHandlers
    ) -> None:
        """Begin to hear; nothing is sent yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            news: tells of the log's entries.
            handlers: what is to be done at each kind of entry.
        """
        self.failure: Failure | None = None
        self.stopping = False
        self._config = config
        self._client = client
        self._news = news
        self._log = EventLog(config.hosts_to_wake)
        self._handlers = handlers
        self._has_counted = False

    def hear(self) -> None:
        """Take the entries that have come, and react to them."""
        self._news.hear(self._log)
        self._react()

    def fetch(self) -> None:
        """Ask the store for entries, also one that may be gone, and react to them."""
        self._client.ask(self._log.fetch, None)
        self._react()

    def post(self, entry: LogEntry, unless: str) -> None:
        """Add an entry to the log, and react to those before it.

        Args:
            entry: what is added.
            unless: the kind of entry that makes this one needless, if it is there before.
        """
        self._client.ask(
            lambda store: self._log.post(store, entry, unless=unless), None, self._config.patience
        )
        self._react()

    def publish(self, failure: Failure) -> None:
        """Tell all of another rank's failure, unless they know of one; else just this one."""
        self.post(LogEntry("failure", self._config.me.rank, failure=failure), unless="failure")
        self._hear_failure(failure)

    def wait_for(self, is_there: Callable[[], bool], seconds: float) -> None:
        """Wait for what other ranks tell, and hear the news meanwhile.

        Args:
            is_there: whether it is there; asked less and less often, so that it may ask the store.
            seconds: how long at most.

        Raises:
            CancelledError: this rank is leaving: nobody waits for it, and what is there by now
                would be of too few ranks.
        """
        end, pause = Deadline.after(seconds), SHORTEST
        while not is_there() and not end.passed and not self._client.cut_off:
            if self.stopping:
                raise CancelledError
            self._news.wait(min(pause, end.left))
            self.hear()
            pause = min(1.5 * pause, LONGEST)

    def _react(self) -> None:
        """React to each entry once, in the order that is the same on all ranks."""
        for numbered in self._log.unheard():
            told, entry = self._news.hand_on(numbered), numbered.entry
            if entry.failure:
                self._count_those_who_heard(entry.failure, told)
                self._hear_failure(entry.failure)
            elif entry.kind == "who":
                self._handlers.question(entry)
            elif entry.kind == "closing":
                self._client.lost = CLOSED
            elif entry.kind == "verdict":
                self._handlers.verdict(entry)
            else:
                tell(f"warning: an entry of the watches' log cannot be read: {entry.text}")

    def _count_those_who_heard(self, failure: Failure, told: list[int]) -> None:
        """Count the ranks that have heard of the first failure: of those that follow, too."""
        heard = [*told, self._config.me.rank] if self._news.from_store else told
        many = sum(rank != failure.rank for rank in heard)
        if many and not self._has_counted:
            self._client.ask(lambda store: store.add(HEARD, many), 0)
        self._has_counted = True

    def _hear_failure(self, failure: Failure) -> None:
        if self.failure is not None or failure.rank == self._config.me.rank:
            return
        self.failure = failure
        self._handlers.failure(failure)
