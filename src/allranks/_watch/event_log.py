"""The watches' part of the store: a log that all read in one order, and what each rank adds.

A key is written once and never changed, so that whoever reads a log to its end has read what all
others read, and the first failure is the same on all ranks.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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


CLOSED = "rank 0 has left, and its store with it"
"""How the store was lost where rank 0 has said that it goes."""

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
        group: of a "who", the group on which the asker waits.
        details: of a "who", whether each rank is to tell its calls and threads.
        text: of a verdict, the verdict; of what is unreadable, why.
        concerned: of a verdict, the ranks that hold the others up, of many the first.
    """

    kind: str
    rank: int = -1
    failure: Failure | None = None
    inquiry: str = ""
    group: str = ""
    details: bool = False
    text: str = ""
    concerned: tuple[int, ...] = ()


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


class NumberedEntry(NamedTuple):
    """An entry, and how many there are with it.

    Attributes:
        number: its number, from 1 on.
        text: as it stands in the log.
        entry: what it says.
    """

    number: int
    text: bytes
    entry: LogEntry


def park_key(slot: int, node: int) -> str:
    """The key that ends the waits of a host for an entry."""
    return f"watch/park/{slot}/{node}"


class EventLog:
    """One rank's view of the log.

    Attributes:
        count: how many entries were read.
    """

    def __init__(self, hosts: int = 0) -> None:
        """Begin to read; nothing is sent yet.

        Args:
            hosts: how many hosts wait in the store for what is posted here.
        """
        self.count = 0
        self._hosts = hosts
        self._unheard: list[NumberedEntry] = []
        self._lock = threading.Lock()

    def fetch(self, store: dist.Store) -> None:
        """Read the entries since the last look: one store operation where there are none."""
        while store.check([_slot(number := self.count)]):
            self.take(number, store.get(_slot(number)))

    def post(self, store: dist.Store, entry: LogEntry, unless: str) -> None:
        """Add an entry to the log, and read those before it; then wake the hosts that wait.

        Args:
            store: where the log is.
            entry: what is added; it names its rank.
            unless: the kind of entry that makes this one needless, if it is there before.
        """
        text, there, kind = written(entry), b"", ""
        while there != text.encode() and (not there or kind != unless):
            number = self.count
            there = store.compare_set(_slot(number), "", text)
            kind = self.take(number, there)
        if there == text.encode() and self._hosts:
            keys = [park_key(number, node) for node in range(self._hosts)]
            store.multi_set(keys, [""] * self._hosts)  # type: ignore[attr-defined]  # not in the stubs

    @property
    def has_unheard(self) -> bool:
        """Whether entries were read that nobody has taken."""
        return bool(self._unheard)

    def unheard(self) -> Iterator[NumberedEntry]:
        """The entries that were read, each once."""
        while self._unheard:
            yield self._unheard.pop(0)

    def take(self, number: int, text: bytes) -> str:
        """Take the entry of a number, unless it was taken already; its kind.

        A look that the store answers late may read what has come another way meanwhile.
        """
        try:
            entry = parsed(LogEntry, text)
        except MalformedError as error:
            entry = LogEntry("unreadable", text=str(error))
        with self._lock:
            if number == self.count:
                self.count += 1
                self._unheard.append(NumberedEntry(self.count, text, entry))
        return entry.kind


def _slot(number: int) -> str:
    return f"watch/log/{number}"
