"""Asks all ranks where they stand, and tells where this one does."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from allranks._system.waiting import Deadline
from allranks._watch import evidence
from allranks._watch.diagnosis import on_group
from allranks._watch.event_log import LogEntry
from allranks._watch.rank_detail import told_calls
from allranks._watch.status_answers import Answers, Inquiry, RankAnswer

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._watch.config import WatchConfig
    from allranks._watch.diagnosis import RankStatus
    from allranks._watch.event_log_client import EventLogClient
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.progress import CollectiveProgress
    from allranks._watch.rank_detail import RankDetail
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
        self._verdict = Deadline.after(0.0)

    @property
    def in_hurry(self) -> bool:
        """Whether the ranks were asked a moment ago."""
        return not self._hurry.passed

    def hurry(self) -> None:
        """News are wanted soon."""
        self._hurry = Deadline.after(HURRIED)

    @property
    def is_pending(self) -> bool:
        """Whether the ranks were asked, and may still hear the verdict."""
        return not self._verdict.passed

    def conclude(self) -> None:
        """A verdict was told: the next inquiry is a new one."""
        self._verdict = Deadline.after(0.0)

    def status(self, *, disturb: bool = True) -> RankStatus:
        """Where this rank stands.

        Args:
            disturb: whether torch's recorder is read though the program goes on.
        """
        me = self._config.me
        return self._progress.status(me.rank, str(me), disturb=disturb)

    def detail(self) -> RankDetail:
        """What this rank has done and does, call by call and thread by thread."""
        return self._progress.detail(self._config.me.rank, told_calls(self._config.world_size))

    def keep(self, why: str, **more: Any) -> None:
        """Keep where this rank stands, for those who come later, where that is wanted."""
        if evidence.wanted():
            standing = asdict(self.status())
            evidence.keep(self._config.me.rank, why, {"standing": standing, **more})

    def answer(self, asked: LogEntry) -> None:
        """Tell where this rank stands, in an inquiry, and its last calls on the asker's group."""
        self._name = asked.inquiry
        self.hurry()
        if asked.group:  # Else it asks who is there, and tells no verdict.
            self._verdict = Deadline.after(self._config.verdict_timeout)
        status = on_group(self.status(disturb=bool(asked.group)), asked.group)
        detail = self.detail() if asked.details else None
        told = RankAnswer(status, self._local_peers.held(self._config.me.rank), detail)
        self._client.ask(
            lambda store: self._inquiry(store, asked.inquiry).answer(told),
            None,
            self._config.patience,
        )
        self.keep("was asked where it stands")

    def start(self, log_client: EventLogClient, group: str = "", *, details: bool = False) -> str:
        """Ask all ranks where they stand, unless another one has just asked for the same.

        Args:
            log_client: tells all that this rank asks.
            group: on which this rank waits.
            details: whether each rank is to tell its calls and threads.

        Returns:
            The name of the inquiry; "" where another one has asked.
        """
        name = uuid.uuid4().hex
        me = self._config.me.rank
        asked = LogEntry("who", me, inquiry=name, group=group, details=details)
        log_client.post(asked, unless="" if details else "who")
        return name if details or self._name == name else ""

    def answers(self, log_client: EventLogClient, name: str = "") -> Answers:
        """What the ranks tell of themselves.

        Args:
            log_client: hears the news meanwhile.
            name: of the inquiry; "" means the last one.
        """
        name = name or self._name
        log_client.wait_for(partial(self._all_have_told, name), self._config.answer_timeout)
        return self._client.ask(
            lambda store: self._inquiry(store, name).answers(), Answers(), self._config.patience
        )

    def _inquiry(self, store: dist.Store, name: str) -> Inquiry:
        return Inquiry(store, name, self._config.world_size)

    def _all_have_told(self, name: str) -> bool:
        told = self._client.ask(
            lambda store: self._inquiry(store, name).count(), 0, self._config.patience
        )
        return told == self._config.world_size
