"""Asks all ranks where they stand, and tells where this one does."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from allranks._system.waiting import Deadline
from allranks._watch import evidence, status_answers
from allranks._watch.event_log import LogEntry
from allranks._watch.status_answers import RankAnswer

if TYPE_CHECKING:
    from allranks._watch.config import WatchConfig
    from allranks._watch.diagnosis import RankStatus
    from allranks._watch.event_log_client import EventLogClient
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.progress import CollectiveProgress
    from allranks._watch.store_client import StoreClient

HURRIED = 3.0
"""Seconds in which a rank looks more often, after it was asked: a verdict will follow."""


class StatusInquiry:
    """The last inquiry that this rank knows of."""

    def __init__(
        self,
        config: WatchConfig,
        client: StoreClient,
        progress: CollectiveProgress,
        local_peers: LocalPeers,
    ) -> None:
        """Know of none yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            progress: knows where this rank stands.
            local_peers: knows which processes of this host are stopped or gone.
        """
        self._config = config
        self._client = client
        self._progress = progress
        self._local_peers = local_peers
        self._name = ""
        self._hurry = Deadline.after(0.0)

    @property
    def in_hurry(self) -> bool:
        """Whether the ranks were asked a moment ago."""
        return not self._hurry.passed

    def status(self) -> RankStatus:
        """Where this rank stands."""
        return self._progress.status(self._config.me.rank, str(self._config.me))

    def keep(self, why: str, **more: Any) -> None:
        """Keep where this rank stands, for those who come later, where that is wanted."""
        if evidence.wanted():
            standing = asdict(self.status())
            evidence.keep(self._config.me.rank, why, {"standing": standing, **more})

    def answer(self, name: str) -> None:
        """Tell where this rank stands, in an inquiry of this name."""
        self._name = name
        self._hurry = Deadline.after(HURRIED)
        told = RankAnswer(self.status(), self._local_peers.held())
        self._client.ask(
            lambda store: status_answers.answer(store, name, self._config.me.rank, told), None
        )
        self.keep("was asked where it stands")

    def start(self, log_client: EventLogClient) -> bool:
        """Ask all ranks where they stand, unless another one has just done so."""
        name = uuid.uuid4().hex
        log_client.post(LogEntry("who", self._config.me.rank, inquiry=name), unless="who")
        return self._name == name

    def answers(self, log_client: EventLogClient) -> dict[int, RankAnswer]:
        """What the ranks tell of themselves, by rank."""
        name, size = self._name, self._config.world_size
        count = partial(status_answers.count, inquiry=name)
        log_client.wait_for(lambda: self._client.ask(count, 0) == size, self._config.answer_timeout)
        told: dict[int, RankAnswer] = {}
        return self._client.ask(lambda store: status_answers.answers(store, name, size), told)
