"""How a job of ``allranks run`` ended, and how that is said."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._system import processes, streams
from allranks._system.printable import printable
from allranks._system.words import ranges

if TYPE_CHECKING:
    from allranks._launch.child_rank import ChildRank


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    Attributes:
        first: the rank that failed first, or None.
        others: the other ranks that failed by themselves.
        done: the ranks that left with exit code 0.
        signal: the signal that ended the job from outside, or None.
    """

    first: ChildRank | None
    others: tuple[ChildRank, ...]
    done: tuple[ChildRank, ...]
    signal: int | None

    @property
    def exit_code(self) -> int:
        """The exit code of the whole job: the first failing rank's."""
        if self.signal is not None:
            return 128 + self.signal
        return self.first.exit_code if self.first else 0


def explain(outcome: JobOutcome) -> None:
    """Say how the job failed; the first failing rank's traceback stands last."""
    console = streams.console(stderr=True)
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        console.print(f"allranks: all ranks ended, after {name}", style="yellow")
    if outcome.first is None or (outcome.signal is not None and not outcome.first.failure):
        return
    if outcome.first.lost_peers and outcome.done:
        console.print(f"allranks: before, {_told_done(outcome.done)}")
    for told in _told_once(outcome.first, outcome.others):
        console.print(f"allranks: {told}")
    first = f"rank {outcome.first.rank} (pid {outcome.first.pid})"
    console.print(f"allranks: {first} {_how(outcome.first)}", style="bold red")
    if outcome.first.failure:
        console.print(printable(outcome.first.failure.traceback), end="")


def _told_done(done: tuple[ChildRank, ...]) -> str:
    gone = ranges(rank.rank for rank in done)
    return f"rank{'s' * (len(done) > 1)} {gone} had left with exit code 0, which the others missed"


def _told_once(first: ChildRank, others: tuple[ChildRank, ...]) -> list[str]:
    """How the others failed; those that failed in one way in one sentence."""
    by_way: dict[str, list[int]] = {}
    for rank in others:
        way = "failed in the same way" if _how(rank) == _how(first) else _how(rank)
        by_way.setdefault(way, []).append(rank.rank)
    return [
        f"after rank {first.rank}, rank{'s' * (len(who) > 1)} {ranges(who)} {way}"
        for way, who in by_way.items()
    ]


def _how(rank: ChildRank) -> str:
    if rank.failure and not rank.is_leaving:
        return f"failed: {printable(rank.failure.summary)}"
    return processes.exited(rank.exit_code if rank.is_leaving else rank.status or 0)
