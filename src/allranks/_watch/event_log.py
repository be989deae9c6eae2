"""The watches' part of the store: a log that all read in one order, and what each rank adds.

A key is written once and never changed, so that whoever reads a log to its end has read what all
others read, and the first failure is the same on all ranks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks._system.typed_json import MalformedError, parsed, written
from allranks._system.waiting import BackgroundCall, Deadline, StillRunning
from allranks._watch.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch.distributed as dist

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that the store may take to answer before it is called silent."""

HEARD, LEFT, FIRST_LEFT = "watch/heard", "watch/left", "watch/left/first"
"""How many ranks have heard of the failure, and have left, and which was the first."""


UP = "watch/up"
"""How many ranks have brought their process group up."""


def counted(store: dist.Store, count: str, ranks: int, seconds: float) -> bool:
    """Wait until so many ranks have counted themselves, not for longer; whether they have.

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
    """The first rank that has left, as what others lost.

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


def unless_lost(action: Callable[[], object]) -> None:
    """Use the store from the program's thread: not for long, and in vain where it is gone."""
    with suppress(StillRunning, RuntimeError):  # Rank 0 is gone or cut off: nobody to be told.
        BackgroundCall(action).result(PATIENCE)


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


class StoreClient:
    """A way to the store that may fall silent, or be lost: then nobody is held up."""

    def __init__(self, store: dist.Store) -> None:
        """Ask nothing yet: gloo holds the program's connection while it waits for peers.

        Args:
            store: the store, over the connection that the program has.
        """
        self.store = store
        self._shares = False
        self._own: BackgroundCall[dist.Store] | None = None
        self._has_own = False
        self._pending: BackgroundCall[Any] | None = None
        self._end_of_patience: Deadline | None = None
        self._is_silent = False
        self.lost = ""

    def share(self) -> None:
        """Use the program's connection from now on, as long as there is none of one's own."""
        self._shares = True

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to ask over."""
        return self._shares or self._has_own

    def take_own(self) -> None:
        """Change to a connection of one's own, once it is there: making one may take long."""
        clone = getattr(self.store, "clone", None)  # Not in all versions of torch.
        if self._own is None and clone:
            self._own = BackgroundCall(clone)
            self._end_of_patience = self._end_of_patience or Deadline.after(PATIENCE)
        elif self._own and self._own.over and not self._has_own:
            try:
                self.store, self._has_own = self._own.result(0.0), True
                self._pending = None  # The program may hold up the other connection for long.
            except RuntimeError:
                self._own = None  # The next look tries again.

    @property
    def silent(self) -> bool:
        """Whether the store does not answer, or not even a new connection."""
        unanswered = self._end_of_patience is not None and self._end_of_patience.passed
        return self._is_silent or (not self.is_open and unanswered)

    def ask(self, question: Callable[[dist.Store], T], otherwise: T) -> T:
        """What the store answers, or otherwise where it does not.

        Args:
            question: uses the store; it may block.
            otherwise: is returned while the store is silent or lost.
        """
        if self.lost or not self.is_open or (self._pending and not self._pending.over):
            return otherwise
        store = self.store
        asked = self._pending = BackgroundCall(lambda: question(store))
        try:
            answer = asked.result(PATIENCE)
        except StillRunning:
            self._is_silent = True
            return otherwise
        except RuntimeError as error:
            self.lost = str(error)
            return otherwise
        self._is_silent = False
        return cast("T", answer)
