"""What a rank tells ``allranks status``: of itself, or of all ranks, which it asks first."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from allranks._rendezvous.roll_call import all_records
from allranks._system import processes
from allranks._watch import status_answers
from allranks._watch.diagnosis import verdict
from allranks._watch.status_answers import Answers
from allranks._watch.status_report import JobReport, row_of, row_without

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._rendezvous.record import RankRecord
    from allranks._watch.config import WatchConfig
    from allranks._watch.event_log_client import EventLogClient
    from allranks._watch.local_peers import LocalPeers
    from allranks._watch.rank_detail import RankDetail
    from allranks._watch.status_inquiry import StatusInquiry
    from allranks._watch.status_report import Question, RankRow
    from allranks._watch.store_client import StoreClient


class Reporter:
    """One rank's knowledge of its job, for those who ask from outside."""

    def __init__(
        self,
        config: WatchConfig,
        client: StoreClient,
        inquiry: StatusInquiry,
        local_peers: LocalPeers,
    ) -> None:
        """Ask nobody yet.

        Args:
            config: what the watch was given.
            client: leads to the store.
            inquiry: asks all ranks.
            local_peers: the processes of this host.
        """
        self._config = config
        self._client = client
        self._inquiry = inquiry
        self._local_peers = local_peers
        self._since = time.time()
        self._records: dict[int, RankRecord] = {}

    def report(self, question: Question, log_client: EventLogClient) -> JobReport:
        """Answer a question; takes as long as an inquiry where it is of everybody."""
        if not question.everybody:
            return self._alone(question)
        told = Answers() if self._client.cut_off else self._answers(question, log_client)
        if not told.statuses:
            return self._alone(question, self._trouble())
        fates = self._fates(told)
        rows = self._rows(told, fates)
        if question.details:
            rows = tuple(self._with_details(row, told.details.get(row.rank)) for row in rows)
        return self._report(rows, verdict=_verdict(told, fates) if question.verdict else "")

    def _answers(self, question: Question, log_client: EventLogClient) -> Answers:
        """What all ranks tell."""
        group = (self._inquiry.status().group or "WORLD") if question.verdict else ""
        name = self._inquiry.start(log_client, group, details=question.details)
        told = self._inquiry.answers(log_client, name)
        if name:
            self._inquiry.conclude()
        return told

    def _alone(self, question: Question, trouble: str = "") -> JobReport:
        row = row_of(self._inquiry.status(disturb=question.verdict), self._config.me)
        if question.details:
            row = replace(row, record=self._config.me, detail=self._inquiry.detail())
        return self._report((row,), trouble=trouble)

    def _with_details(self, row: RankRow, detail: RankDetail | None) -> RankRow:
        return replace(row, record=self._records.get(row.rank), detail=detail)

    def _trouble(self) -> str:
        """Why no other rank can be asked."""
        of_rank_0 = self._local_peers.condition(0)
        fates = status_answers.fates_unasked(
            1, self._config.external_store, of_rank_0, self._client.lost
        )
        return f"rank 0: {fates[0]}"

    def _report(
        self, rows: tuple[RankRow, ...], *, verdict: str = "", trouble: str = ""
    ) -> JobReport:
        me = self._config.me
        return JobReport(
            me.job,
            me.launcher,
            me.world_size,
            self._since,
            me.rank,
            rows,
            verdict,
            trouble,
            processes.program(),
            processes.directory(),
        )

    def _fates(self, told: Answers) -> dict[int, str]:
        """What is known of the ranks that did not tell."""
        silent, known = told.silent(self._config.world_size), dict[int, str]()
        known = self._client.ask(lambda store: status_answers.fates(store, silent), known)
        all_silent = dict.fromkeys(silent, "no answer") | known
        return status_answers.with_conditions(all_silent, told.held, self._local_peers.condition)

    def _rows(self, told: Answers, fates: Mapping[int, str]) -> tuple[RankRow, ...]:
        if not self._records:
            self._records = self._client.ask(all_records, {}, self._config.patience)
        records = self._records
        longest = max(status.measures.stay for status in told.statuses.values())
        rows = [row_of(one, records.get(rank), longest) for rank, one in told.statuses.items()]
        rows += [row_without(rank, fate, records.get(rank)) for rank, fate in fates.items()]
        return tuple(sorted(rows, key=lambda row: row.rank))


def _verdict(told: Answers, fates: Mapping[int, str]) -> str:
    """Why the rank waits that has waited longest; "" where none does."""
    waiting = [status for status in told.statuses.values() if status.waits]
    if not waiting:
        return ""
    return verdict(max(waiting, key=lambda status: status.seconds), told.statuses, fates)
