"""A job as this host knows it: what one of its ranks tells, and what is seen from outside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from allranks._status.local_ranks import ask, doors
from allranks._watch.status_report import SILENT, JobReport, Question, row_without

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._status.local_ranks import Answer
    from allranks._watch.status_report import Door, RankRow

SOON = 1.0
"""Seconds in which a rank tells of itself; one that does not is not asked for the others."""

TOGETHER = 64
"""How many ranks are asked at the same time."""

ALL = 30.0
"""Seconds in which it tells of all: it asks them, and gives them time by their number."""


def jobs(of: str = "", *, verdict: bool = False, details: bool = False) -> list[JobReport]:
    """The jobs of this user that have a rank on this host.

    Args:
        of: only those that have this in their name or their program, or as a process here.
        verdict: whether to ask why ranks wait.
        details: whether to ask for each rank's record, calls and threads.
    """
    question = Question(everybody=True, verdict=verdict, details=details)
    by_job = groupby(doors(), key=lambda door: (door.user, door.job))
    ranks_of_jobs = [list(ranks) for _, ranks in by_job]
    found = [_job(here, question) for here in ranks_of_jobs if not of or _is_meant(here, of)]
    return [job for job in found if job]


def _is_meant(here: Sequence[Door], of: str) -> bool:
    """Whether a job is asked for; one that is not is disturbed by no question for a verdict."""
    return any(_has(ask(door, Question(), SOON), of) for door in here)


def _has(answer: Answer, of: str) -> bool:
    report = answer.report
    named = report is not None and (of in report.job or of in report.program)
    return named or str(answer.pid) == of


def _job(here: Sequence[Door], question: Question) -> JobReport | None:
    """One job; None where none of its ranks has told anything, and none lives."""
    with ThreadPoolExecutor(min(TOGETHER, len(here))) as pool:
        alone = replace(question, everybody=False)
        asked = {pool.submit(ask, door, alone, SOON): door for door in here}
        awake = next((asked[one] for one in as_completed(asked) if one.result().report), None)
        whole = ask(awake, question, ALL).report if awake else None
    answers = [one.result() for one in asked]
    if not awake:
        return _mute(answers)
    if whole and not whole.trouble:
        return replace(whole, rows=_with_conditions(whole.rows, answers))
    return _of_this_host(answers, whole.trouble if whole else "its ranks give no answer")


def _of_this_host(answers: Sequence[Answer], trouble: str) -> JobReport:
    """What the ranks of this host tell, each of itself."""
    told = [answer.report for answer in answers if answer.report]
    rows = {row.rank: row for report in told for row in report.rows}
    rows |= {one.rank: _mute_row(one) for one in answers if not one.report}
    return replace(told[0], rows=tuple(rows[rank] for rank in sorted(rows)), trouble=trouble)


def _mute(answers: Sequence[Answer]) -> JobReport | None:
    """A job none of whose ranks here can tell anything: all are stopped, or deep in other code."""
    rows = tuple(_mute_row(one) for one in answers if one.pid)
    trouble = "none of its ranks on this host gives an answer"
    return JobReport("", "", 0, 0.0, -1, rows, trouble=trouble) if rows else None


def _mute_row(answer: Answer) -> RankRow:
    told = answer.condition or "no answer"
    return replace(row_without(answer.rank, told, None), pid=answer.pid)


def _with_conditions(rows: Sequence[RankRow], answers: Sequence[Answer]) -> tuple[RankRow, ...]:
    """The rows; of those that told nothing, with what is seen of their processes from here."""
    seen = {one.rank: one for one in answers if not one.report and one.condition}
    return tuple(
        _seen_from_here(row, seen[row.rank]) if row.rank in seen and row.state == SILENT else row
        for row in rows
    )


def _seen_from_here(row: RankRow, seen: Answer) -> RankRow:
    """A row of a rank that gave no answer, with the condition of its process."""
    told = row_without(row.rank, f"no answer; {seen.condition}", None)
    return replace(told, host=row.host, pid=row.pid or seen.pid, device=row.device)
