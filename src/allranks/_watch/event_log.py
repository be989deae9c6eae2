"""The watches' part of the store: a log that all read in one order, and what each rank adds.

A key is written once and never changed, so that whoever reads a log to its end has read what all
others read, and the first failure is the same on all ranks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.waiting import Deadline
from allranks._watch.failures import Failure
from allranks._watch.store_client import unless_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch.distributed as dist

T = TypeVar("T")

HEARD, LEFT, FIRST_LEFT = "watch/heard", "watch/left", "watch/left/first"
"""How many ranks have heard of the failure, and have left, and which was the first."""


UP = "watch/up"
"""How many ranks have brought their process group up."""


def counted(store: dist.Store, count: str, ranks: int, seconds: float) -> bool:
    """Wait until a counter in the store reaches a number of ranks; return whether it did.

    Args:
        store: the store, over the connection of the program's thread.
        count: the key under which they count.
        ranks: how many are waited for.
        seconds: how long at most.
    """
    end, found = Deadline.after(seconds), 0

    def wait() -> None:
        nonlocal found
        pause = 0.002
        while (found := store.add(count, 0)) < ranks and not end.passed:
            time.sleep(pause)
            pause = min(1.5 * pause, 0.05)

    unless_lost(wait)
    return found >= ranks


def left_note(rank: int) -> str:
    """The key under which a rank says that it leaves."""
    return f"watch/left/{rank}"


def first_left(store: dist.Store, among: Sequence[int] = ()) -> Failure | None:
    """Return the rank that left first, as a Failure, or one of ``among`` that has left.

    Args:
        store: where the notes are.
        among: the ranks of which one has left; all if not given.
    """
    if not store.check([FIRST_LEFT]):
        return None
    with suppress(MalformedError):
        first = parsed(int, store.get(FIRST_LEFT))
        left = (rank for rank in among if store.check([left_note(rank)]))
        rank = first if not among or first in among else next(left, None)
        if rank is not None:
            note = parsed(DepartureNote, store.get(left_note(rank)))
            return Failure(rank, note.who, note.at, "", f"has left: {note.how}")
    return None


@dataclass(frozen=True)
class LogEntry:
    """One entry of the log.

    Attributes:
        kind: "failure", "who", "verdict", "closing", or "unreadable".
        rank: the rank that wrote it.
        failure: of a failure, what it is.
        inquiry: of a "who", the name under which the answers are expected.
        text: of a verdict, the verdict; of what is unreadable, why.
    """

    kind: str
    rank: int = -1
    failure: Failure | None = None
    inquiry: str = ""
    text: str = ""


@dataclass(frozen=True)
class DepartureNote:
    """What a rank writes when it leaves.

    Attributes:
        who: names it, with its process and host.
        at: when, in seconds since the epoch.
        how: why it leaves.
    """

    who: str
    at: float
    how: str


class EventLog:
    """One rank's view of the log."""

    def __init__(self) -> None:
        """Begin to read; nothing is sent yet."""
        self._read = 0
        self._unheard: list[LogEntry] = []

    def fetch(self, store: dist.Store) -> None:
        """Read the entries since the last look: one store operation where there are none."""
        while store.check([self._slot]):
            self._take_down(store.get(self._slot))

    def post(self, store: dist.Store, entry: LogEntry, unless: str) -> None:
        """Add an entry to the log, and read those before it.

        Args:
            store: where the log is.
            entry: what is added; it names its rank.
            unless: the kind of entry that makes this one needless, if it is there before.
        """
        text = written(entry)
        there = ""
        while there != text and (not there or self._unheard[-1].kind != unless):
            there = store.compare_set(self._slot, "", text).decode()
            self._take_down(there)

    def unheard(self) -> Iterator[LogEntry]:
        """The entries that were read, each once."""
        while self._unheard:
            yield self._unheard.pop(0)

    def _take_down(self, text: str | bytes) -> None:
        try:
            entry = parsed(LogEntry, text)
        except MalformedError as error:
            entry = LogEntry("unreadable", text=str(error))
        self._unheard.append(entry)
        self._read += 1

    @property
    def _slot(self) -> str:
        return f"watch/log/{self._read}"
