"""One rank goes first, and the others wait without a collective, however long it takes."""

from __future__ import annotations

import itertools
import math
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from allranks._process_group.lifecycle import rank_0, store
from allranks._system import processes
from allranks._system.waiting import BackgroundCall
from allranks._system.words import tell
from allranks._watch import failures, torch_groups
from allranks._watch.store_client import unless_lost
from allranks.errors import CollectiveError, PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord
    from allranks._transport.process_groups import Members

T = TypeVar("T")

BEAT = 1.0
"""Seconds between two signs of life of the first rank, and between two looks at them."""

LOOK = 0.5
"""Seconds between two looks whether the first rank is done, at most."""

SILENT = 15.0
"""Seconds without a sign of life after which a waiting rank says so."""

GONE = 3.0
"""Seconds in which the store may tell that the first rank was done, before its process ended."""

DONE, SIGN = "done", "sign"


@contextmanager
def turn(members: Members, what: str) -> Iterator[bool]:
    """The first rank's turn: its block comes before the block on the others. Collective.

    Args:
        members: who takes part, several of them.
        what: names the call in errors.

    Yields:
        Whether this is the first rank.

    Raises:
        PeerFailedError: on the others, where the first rank raised in its block, left or died.
    """
    import torch.distributed as dist

    members.cache["turns"] = members.cache.get("turns", 0) + 1
    name = torch_groups.name_of(cast("dist.ProcessGroup", members.group))
    place = dist.PrefixStore(f"turn/{name}/{members.cache['turns']}", store())
    if members.rank > 0:
        _wait_for_first(place, what, FirstRank.of(members))
        yield False
        return
    over = threading.Event()
    alive = threading.Thread(target=_give_signs, args=(place, over), daemon=True)
    alive.start()
    told = ""
    try:
        yield True
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
        raise
    finally:
        over.set()
        unless_lost(lambda: place.set(DONE, told))
        alive.join(BEAT)


def _give_signs(place: dist.Store, over: threading.Event) -> None:
    """The first rank's signs of life."""
    with suppress(RuntimeError):  # The store is lost, which this rank hears elsewhere.
        for count in itertools.count():
            place.set(SIGN, str(count))
            if over.wait(BEAT):
                return


class FirstRank(NamedTuple):
    """The rank that goes first, as the others know it.

    Attributes:
        rank: its global rank.
        record: what it told in the roll call, where that is known.
    """

    rank: int
    record: RankRecord | None

    @classmethod
    def of(cls, members: Members) -> FirstRank:
        """The first rank of a group."""
        first = members.ranks[0]
        return cls(first, None if first else rank_0())

    def __str__(self) -> str:
        return str(self.record or f"rank {self.rank}")


def _wait_for_first(place: dist.Store, what: str, first: FirstRank) -> None:
    """Ask often at first, for what takes no time, and seldom later."""
    pause, signs = 0.005, _SignsOfLife(what, first)
    try:
        while not signs.ask(lambda: place.check([DONE])):
            signs.look(place)
            time.sleep(pause)
            pause = min(pause * 1.3, LOOK)
        told = signs.ask(lambda: place.get(DONE)).decode()
    except RuntimeError as error:
        if isinstance(error, PeerFailedError):
            raise
        raise _store_lost(error, what) from error
    if told:
        raise PeerFailedError(f"rank {first.rank} failed in {what}: {told}", rank=first.rank)


def _store_lost(error: RuntimeError, what: str) -> CollectiveError:
    if culprit := failures.cause_of(error):
        return failures.peer_failed(culprit, what)
    if lost := failures.store_lost(error):
        return CollectiveError(f"{what}: {lost}")
    told = f"the store of rank 0 is lost, in {what}: rank 0 has probably died ({error})"
    return PeerFailedError(told, rank=0)


class _SignsOfLife:
    """The first rank's signs of life, as a waiting rank sees them."""

    def __init__(self, what: str, first: FirstRank) -> None:
        self._what = what
        self._first = first
        record = first.record
        self._pid = record.pid if record and record.pid_space == processes.pid_space() else None
        self._sign = b""
        self._since = self._asked = time.monotonic()
        self._next = 0.0
        self._gone = 0.0  # When its process was first seen to have ended; 0 for never.

    def ask(self, question: Callable[[], T]) -> T:
        """The store's answer, however long it takes: what ends the wait is heard meanwhile."""
        self._asked = time.monotonic()
        return BackgroundCall(question).result_unless(self._look_around, math.inf)

    def look(self, place: dist.Store) -> None:
        """Read the sign of life now and then, and tell what follows from it.

        To be called when the first rank, as the store has just said, is not done.
        """
        if 0 < self._gone < self._asked:
            raise self._died()
        now = time.monotonic()
        if now > self._next and self.ask(lambda: place.check([SIGN])):
            sign = self.ask(lambda: place.get(SIGN))
            self._since = now if sign != self._sign else self._since
            self._sign, self._next = sign, now + BEAT
        self._look_around()

    def _look_around(self) -> None:
        """What there is to hear and to see without the store, which may go with rank 0."""
        failures.raise_if_failed(self._what)
        now = time.monotonic()
        if self._pid and processes.is_gone(self._pid):
            # It may have been done, and have left, since the store was asked.
            self._gone = self._gone or now
            if now > self._gone + GONE:
                raise self._died()
        if now - self._since > SILENT:
            self._since = now
            tell(f"waiting for {self._silent(now)}")

    def _died(self) -> PeerFailedError:
        """What to raise where the first rank has died."""
        return PeerFailedError(f"{self._first} has died, in {self._what}", rank=self._first.rank)

    def _silent(self, now: float) -> str:
        external_store = failures.external_store()
        if external_store and now - self._asked > LOOK:
            return f"{external_store}, in {self._what}: it does not answer"
        how = processes.condition(self._pid) if self._pid else ""
        silent = f"silent for {SILENT:g} s{f'; {how}' if how else ''}"
        return f"{self._first}, in {self._what}: {silent}"
