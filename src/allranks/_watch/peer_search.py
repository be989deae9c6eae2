"""Finds out which rank has left, or died, when a connection to it was closed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allranks._rendezvous.roll_call import record_of
from allranks._system import processes
from allranks._system.waiting import Deadline
from allranks._system.words import ranges
from allranks._watch.event_log import first_left, left_note
from allranks._watch.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._rendezvous.record import RankRecord
    from allranks._watch.config import WatchConfig
    from allranks._watch.event_log_client import EventLogClient
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.status_inquiry import StatusInquiry
    from allranks._watch.store_client import StoreClient

SEARCH = 0.5
"""Seconds in which a rank that has gone may be told of, before all ranks are asked."""


class PeerSearch:
    """What is asked, in turn: the news, the processes of this host, the store, all ranks."""

    def __init__(
        self,
        config: WatchConfig,
        client: StoreClient,
        log_client: EventLogClient,
        inquiry: StatusInquiry,
        local_peers: LocalPeers,
    ) -> None:
        """Search for nobody yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            log_client: reads the event log.
            inquiry: asks all ranks.
            local_peers: the processes of this host.
        """
        self._config = config
        self._client = client
        self._log_client = log_client
        self._inquiry = inquiry
        self._local_peers = local_peers

    def on_process_exit(self, record: RankRecord, code: int | None, *, is_up: bool) -> None:
        """Publish a failure for a rank whose process has ended.

        Nothing is published if the rank has left a departure note; nor, once the process group is
        up, if it exited with code 0, or if neither the store nor the kernel can tell how it ended.

        Args:
            record: whose process has ended.
            code: its exit code; None where it is not known.
            is_up: whether the process group is up: nobody means to leave before.
        """
        if record.rank == 0 and not self._config.external_store:
            # To ask would have torch print a stack of its own on each rank.
            gone = "rank 0's process has ended, and its store with it"
            self._client.lost = self._client.lost or gone  # It may have said that it leaves.
        note = left_note(record.rank)
        told: bool | None = None
        told = self._client.ask(lambda store: store.check([note]), told)
        meant = code == 0 or (told is None and code is None)
        if told or (meant and is_up):
            return
        how = processes.ending(code)
        self._log_client.publish(Failure(record.rank, str(record), time.time(), "", how))

    def run(self, among: Sequence[int], hear_news: Callable[[], None]) -> Failure | None:
        """Who has closed a connection to this rank: known, or found by asking all.

        Args:
            among: the ranks to which the closed connection may lead; all if empty.
            hear_news: looks at the event log, and at the processes of this host.
        """
        alone = bool(among) and 0 not in among
        end = Deadline.after(SEARCH)
        self._inquiry.hurry()
        while not end.passed:
            hear_news()
            if found := self._log_client.failure:
                return found
            if self._client.lost and (alone or not self._local_peers.watch_over(0)):
                break
            self._local_peers.wait(0.02)  # A socket is closed a moment before its process ends.
        if left := self._who_has_left(among):
            return left
        if not self._client.lost:
            return self._who_is_missing(among)
        if alone:
            return self._the_only_one_gone(among)
        return None if self._config.external_store else self._store_gone()

    def _the_only_one_gone(self, among: Sequence[int]) -> Failure | None:
        """The rank that has closed a connection, where there is but one, and nobody to be asked."""
        others = [rank for rank in among if rank != self._config.me.rank]
        gone = self._local_peers.ended_soon(others) if others[1:] else others
        if len(gone) != 1:
            return None
        text = "has closed its connection: it has left, given up, or died (the store is gone, too)"
        return Failure(gone[0], f"rank {gone[0]}", time.time(), "", text)

    def _store_gone(self) -> Failure:
        how = self._local_peers.condition(0) or "it has left or died"
        who = str(self._config.rank_0 or "rank 0")
        return Failure(0, who, time.time(), "", f"is gone, and its store with it: {how}")

    def _who_has_left(self, among: Sequence[int]) -> Failure | None:
        self._log_client.fetch()
        left: Failure | None = None
        if left := self._client.ask(lambda store: first_left(store, among), left):
            self._log_client.publish(left)  # Some ranks wait for one that waits for it.
        return self._log_client.failure

    def _who_is_missing(self, among: Sequence[int]) -> Failure | None:
        """A rank that closed a connection, gives no answer, and is not seen to live."""
        if not self._inquiry.start(self._log_client):
            self._log_client.wait_for(
                lambda: self._log_client.failure is not None, self._config.verdict_timeout
            )
            return self._log_client.failure
        told = self._inquiry.answers(self._log_client).statuses
        silent = [rank for rank in range(self._config.world_size) if rank not in told]
        gone = [rank for rank in silent if not self._local_peers.is_alive(rank)]
        gone.sort(key=lambda rank: rank not in among)
        if gone and told:
            self._log_client.publish(self._no_answer(gone))
        return self._log_client.failure

    def _no_answer(self, gone: Sequence[int]) -> Failure:
        more = f" (nor do others: {ranges(gone[1:])})" if gone[1:] else ""
        record: RankRecord | None = None
        record = self._client.ask(lambda store: record_of(store, gone[0]), record)
        who = str(record or f"rank {gone[0]}")
        return Failure(gone[0], who, time.time(), "", f"does not answer{more}: died, or cut off")
