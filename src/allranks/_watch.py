"""The watch, as the program's own thread meets it; the lookout is its other half."""

from __future__ import annotations

import concurrent.futures
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from allranks import _alarm
from allranks._alarm import Failure
from allranks._bulletin import (
    FIRST_LEFT,
    HEARD,
    LEFT,
    Bulletin,
    Entry,
    LeftNote,
    counted,
    left_note,
    unless_lost,
)
from allranks._lookout import Lookout
from allranks._outside import written
from allranks._terminal import tell
from allranks.errors import PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._lookout import Post

LEAVING = 1.0
"""Seconds that rank 0 keeps its store for the others when all leave, till it says that it goes."""

ANSWER = 3.5
"""Seconds that the lookout may take for an answer, beside those that the ranks have."""


class Watch:
    """One rank's watch, from setup to cleanup."""

    def __init__(self, post: Post) -> None:
        """Go on duty.

        Args:
            post: where it stands.
        """
        self._post = post
        self._rank = post.me.rank
        self._announced = False
        self._lookout = Lookout(post)
        _alarm.take_duty(self)

    @property
    def failure(self) -> Failure | None:
        """The first failure of the world that is known here."""
        return self._lookout.failure

    @property
    def last_verdict(self) -> str:
        """The last verdict that was told; "" if there is none."""
        return self._lookout.last_verdict

    @property
    def keeper(self) -> str:
        """Names the store where no rank serves it; else ""."""
        return self._post.keeper

    @property
    def cut_off(self) -> bool:
        """Whether the store does not answer, or is gone."""
        return self._lookout.cut_off

    def come_up(self) -> None:
        """The process group is up."""
        _alarm.hear_uncaught()
        self._lookout.come_up()

    def announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one fails; of several errors, the first."""
        if self._announced or (isinstance(error, SystemExit) and not error.code):
            return
        self._announced = True
        if self.failure is None and not isinstance(error, PeerFailedError):
            self._announce(error)
        if self._post.hosts_store:
            self._keep_store(HEARD, self._post.world_size - 1, self._post.answers)

    def _announce(self, error: BaseException) -> None:
        failure = Failure.of(error, self._rank, str(self._post.me))
        self._tell(Entry("failure", self._rank, failure=failure), unless="failure")
        try:
            self._lookout.keep(str(failure), failure=asdict(failure))
        except Exception as trouble:  # noqa: BLE001 - the error that is announced matters more
            tell(f"warning: what {self._post.me} did last cannot be kept: {trouble!r}")

    def _tell(self, entry: Entry, unless: str) -> None:
        """Post to the log from the program's own thread."""
        unless_lost(lambda: Bulletin().post(self._lookout.store, entry, unless))

    def find_culprit(self, among: Sequence[int] = ()) -> Failure | None:
        """Who of some ranks has closed a connection; takes seconds where it is not known yet."""
        found: Failure | None = self._ask(lambda: self._lookout.search(among))
        return found

    def verdict(self) -> str:
        """What the ranks of a collective that does not complete do instead; "" if unknown."""
        return self._ask(self._lookout.judge) or ""

    def stop(self, how: str) -> None:
        """Go off duty, and tell the others that this rank leaves.

        Args:
            how: why it leaves.
        """
        _alarm.leave_duty()
        self._lookout.stop()
        if self._lookout.cut_off:
            return
        note = LeftNote(str(self._post.me), time.time(), how)
        store = self._lookout.store

        def leave() -> None:
            store.set(left_note(self._rank), written(note))
            store.compare_set(FIRST_LEFT, "", str(self._rank))
            store.add(LEFT, 1)

        unless_lost(leave)

    def see_others_off(self) -> None:
        """Keep the store until the others have left, for a moment at most."""
        if self._post.hosts_store and not self._lookout.cut_off:
            failed = self._announced or self.failure is not None
            ranks = self._post.world_size - failed  # One that fails may never say that it leaves.
            if not self._keep_store(LEFT, ranks, LEAVING):
                self._tell(Entry("closing", self._rank), unless="closing")
                self._keep_store(LEFT, ranks, self._post.tick)

    def _keep_store(self, count: str, ranks: int, seconds: float) -> bool:
        """Keep the store until so many ranks have counted themselves; whether they have."""
        return counted(self._lookout.store, count, ranks, seconds)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The lookout's answer; None if it takes too long."""
        try:
            return self._lookout.request(question).result(ANSWER + self._post.hearsay)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            return None
