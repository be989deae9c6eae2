"""Patience with a collective that does not complete, and the verdict on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allranks._system.printable import printable
from allranks._system.words import tell
from allranks._watch import evidence, failures, status_answers
from allranks._watch.diagnosis import concerned, verdict
from allranks._watch.event_log import LogEntry

if TYPE_CHECKING:
    from allranks._watch.config import WatchConfig
    from allranks._watch.event_log_client import EventLogClient
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.progress import CollectiveProgress, StuckCollective
    from allranks._watch.status_answers import Answers
    from allranks._watch.status_inquiry import StatusInquiry
    from allranks._watch.store_client import StoreClient


class StallJudge:
    """Asks all ranks where they stand, when this one waits for too long.

    Attributes:
        last_verdict: the last verdict that was told; "" if there is none.
    """

    def __init__(
        self,
        config: WatchConfig,
        client: StoreClient,
        inquiry: StatusInquiry,
        progress: CollectiveProgress,
        local_peers: LocalPeers,
    ) -> None:
        """Be patient.

        Args:
            config: what the watch was given.
            client: leads to the store.
            inquiry: asks all ranks.
            progress: whether this rank's collectives go on.
            local_peers: the processes of this host.
        """
        self.last_verdict = ""
        self._config = config
        self._client = client
        self._inquiry = inquiry
        self._progress = progress
        self._local_peers = local_peers
        self._judged: tuple[tuple[object, ...] | None, float] | None = None
        self._patience: tuple[StuckCollective | None, float] = (None, config.stall_limit)

    def follow(self, log_client: EventLogClient) -> None:
        """See whether this rank goes on; ask all where they stand, if it has not for too long."""
        limit, candidate = self._config.stall_limit, self._progress.candidate()
        if candidate is None or log_client.failure is not None or candidate.age < limit / 2:
            return
        stuck = self._progress.stuck()
        before, patience = self._patience
        if stuck is None or before is None or stuck.what != before.what:
            self._patience = (stuck, patience if self._is_judged(stuck) else limit)
        if stuck is None or stuck.age < self._patience[1]:
            return
        again = self._is_judged(stuck)
        if not again or stuck.age + self._config.answer_timeout < self._config.timeout:
            self.judge(log_client, again=again)

    def judge(self, log_client: EventLogClient, *, again: bool = False) -> str:
        """Why this rank's collective does not go on, by what all ranks tell.

        Args:
            log_client: reads the event log.
            again: whether they are asked once more, after an earlier verdict on it.
        """
        stuck, before = self._progress.stuck(), self.last_verdict
        if self._is_judged(stuck) and not again:
            return before
        if not self._inquiry.is_pending and self._inquiry.start(log_client, self._group()):
            told = self._inquiry.answers(log_client)
            if self._is_still(stuck) and told.statuses:
                log_client.post(self._verdict_entry(told), unless="")
        else:
            log_client.wait_for(lambda: self.last_verdict != before, self._config.verdict_timeout)
        if self._client.cut_off and self._is_still(stuck):
            self.hear(LogEntry("verdict", self._config.me.rank, text=self._verdict_alone()))
        return self.last_verdict

    def hear(self, told: LogEntry) -> None:
        """Take a verdict, from whichever rank, and show it where it is to be seen."""
        self._inquiry.conclude()
        text, stuck = printable(told.text), self._progress.stuck()
        self.last_verdict = text
        self._judged = (stuck.what if stuck else None, time.monotonic())
        if stuck:
            self._patience = (stuck, 2 * max(stuck.age, self._config.stall_limit))
        self._show(text, told)
        evidence.keep_verdict(text)

    def _show(self, text: str, told: LogEntry) -> None:
        """Rank 0, who asked, and whom it concerns tell all of it; of each host one rank a line."""
        me = self._config.me.rank
        if me in (0, told.rank, *told.concerned):
            tell(text)
        elif self._config.num_nodes > 1 and self._local_peers.speaks(me):
            tell(f"{text.partition('. ')[0]}. Why, ranks {told.rank} and 0 tell.")

    def _verdict_entry(self, told: Answers) -> LogEntry:
        among = set(self._inquiry.status().members) or told.statuses.keys()
        here = {rank: status for rank, status in told.statuses.items() if rank in among}
        text, me = self._verdict_on(told), self._config.me.rank
        return LogEntry("verdict", me, text=text, concerned=concerned(here))

    def _is_still(self, stuck: StuckCollective | None) -> bool:
        """Whether this rank has not gone on since."""
        now = self._progress.stuck()
        return stuck is None or (now is not None and now.what == stuck.what)

    def _is_judged(self, stuck: StuckCollective | None) -> bool:
        """Whether the last verdict is on what this rank waits for."""
        if self._judged is None:
            return False
        what, at = self._judged
        waiting = failures.waiting  # torch forgets a call that has failed; the program still waits.
        return (stuck is not None and stuck.what == what) or (
            waiting is not None and at > waiting.since
        )

    def _group(self) -> str:
        """The group on which this rank waits."""
        return self._inquiry.status().group

    def _verdict_on(self, told: Answers) -> str:
        """Make the verdict.

        Of a rank that did not answer, it tells what the store knows and how its process fares.
        """
        silent, known = told.silent(self._config.world_size), dict[int, str]()
        known = self._client.ask(lambda store: status_answers.fates(store, silent), known)
        fates = status_answers.with_conditions(known, told.held, self._local_peers.condition)
        return verdict(self._inquiry.status(), told.statuses, fates)

    def _verdict_alone(self) -> str:
        """What this rank knows by itself, where the store does not answer."""
        external_store, condition = self._config.external_store, self._local_peers.condition(0)
        fates = status_answers.fates_unasked(
            self._config.world_size, external_store, condition, self._client.lost
        )
        held = self._local_peers.held().items()
        fates.update({rank: how for rank, how in held if rank or external_store})
        me = self._inquiry.status()
        return verdict(me, {me.rank: me}, fates)
