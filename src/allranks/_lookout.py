"""A thread beside the program that hears of failures, and finds out why ranks wait.

It looks at the store once a second, over a connection of its own; in large worlds less often, so
that all ranks together look at most ``LOOKS`` times a second. A death on this host wakes it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import uuid
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from allranks import _alarm, _evidence, _flight, _inquiry, _processes, _shown, _stacks
from allranks._alarm import Failure
from allranks._bulletin import HEARD, Bulletin, Entry, Line, first_left, left_note
from allranks._diagnosis import Standing, verdict
from allranks._inquiry import Answer
from allranks._neighbours import Neighbours
from allranks._printable import printable
from allranks._progress import Progress, Stuck
from allranks._record import Record
from allranks._rollcall import answered, ranges
from allranks._terminal import tell
from allranks._waiting import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist

FIRST, TICK = 0.1, 1.0
"""Seconds to the first look at the store, and between two."""

LOOKS = 512
"""How often a second all ranks together may look at the store."""

HURRY, HURRIED = 0.05, 3.0
"""Seconds between two looks while ranks tell where they stand, and for how long so."""

SEARCH = 0.5
"""Seconds in which a rank that has gone may be told of, before all ranks are asked."""

SPEAK = 2.0
"""Seconds in which the program may hear of a failure by itself before the lookout says it."""

GRACE = 10.0
"""Seconds from then to the end of a rank that cannot hear of it, blocked in a call of torch's."""

SHARE = 0.6
"""The share of the group's timeout after which a stall is looked into at the latest."""


@dataclass(frozen=True)
class Post:
    """Where a watch stands.

    Attributes:
        store: the store of the world, which the program uses too.
        me: this rank's record.
        neighbours: the records of the other ranks of this host.
        world_size: how many ranks there are.
        hosts_store: whether the store goes with this process.
        stall_after: seconds in one collective after which the ranks are asked.
        timeout: seconds after which a collective fails.
        rank_0: rank 0's record, or None on rank 0 itself.
        keeper: names the store where no rank serves it; else "".
    """

    store: dist.Store
    me: Record
    neighbours: tuple[Record, ...]
    world_size: int
    hosts_store: bool
    stall_after: float
    timeout: float
    rank_0: Record | None = None
    keeper: str = ""

    @property
    def patience(self) -> float:
        """Seconds in one collective after which the ranks are asked."""
        return min(self.stall_after, SHARE * self.timeout)

    @property
    def tick(self) -> float:
        """Seconds between two looks at the store."""
        return max(TICK, self.world_size / LOOKS)

    @property
    def hurry(self) -> float:
        """Seconds between two looks while ranks tell where they stand."""
        return max(HURRY, self.world_size / (10 * LOOKS))

    @property
    def answers(self) -> float:
        """Seconds that ranks have to tell where they stand: they look, and take some to tell."""
        return self.tick + 0.5

    @property
    def hearsay(self) -> float:
        """Seconds that a rank has to tell what the ranks have told it: it awaits their answers."""
        return 2 * self.answers


class Lookout:
    """The thread, and what it knows."""

    def __init__(self, post: Post) -> None:
        """Begin to look.

        Args:
            post: where it stands.
        """
        self.failure: Failure | None = None
        self._post = post
        self._line = Line(post.store)
        self._bulletin = Bulletin()
        self._neighbours = Neighbours()
        self._neighbours.meet(r for r in post.neighbours if r.pid_space == post.me.pid_space)
        self._is_up = False
        self._has_looked = False
        self._progress = Progress(blind=self._is_blind())
        self._requests: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._hurry = Deadline.after(0.0)
        self._inquiry = ""
        self.last_verdict = ""
        self._judged: tuple[tuple[object, ...] | None, float] | None = None
        self._patience: tuple[Stuck | None, float] = (None, post.patience)
        self._deaf: tuple[list[_stacks.Line], Deadline] | None = None
        self._thread = threading.Thread(target=self._run, name="allranks-watch", daemon=True)
        self._thread.start()

    def _is_blind(self) -> bool:
        why = _flight.why_blind()
        if why and self._post.me.rank == 0:
            tell(f"note: if a job hangs in a call of torch's own, nobody can tell which: {why}")
        return why is not None

    @property
    def cut_off(self) -> bool:
        """Whether the store has not answered lately."""
        return bool(self._line.lost) or self._line.silent

    def request(self, question: Callable[[], Any]) -> Future[Any]:
        """Have a question answered by the thread."""
        future: Future[Any] = Future()

        def answer() -> None:
            try:
                future.set_result(question())
            except Exception as error:  # noqa: BLE001 - raised where it was asked
                future.set_exception(error)

        self._requests.put(answer)
        self._neighbours.call()
        if not self._thread.is_alive():
            future.cancel()
        return future

    def stop(self) -> None:
        """End the thread; one that is held up by the store is left behind."""
        self._stopping = True
        self._neighbours.call()
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._neighbours.close()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._neighbours.sleep(self._pause())
                if not self._stopping:
                    self._look()
        except CancelledError:
            return
        except Exception:  # noqa: BLE001 - nobody else would hear of it
            tell(f"the watch of {self._post.me} has ended:\n{traceback.format_exc()}")

    def _pause(self) -> float:
        """Seconds to the next look."""
        if not self._has_looked:
            return FIRST
        in_no_hurry = self._hurry.passed and self._line.is_open and not self._line.silent
        return self._post.tick if in_no_hurry else self._post.hurry

    def _look(self) -> None:
        self._follow_progress()
        self._hear_news()
        while not self._requests.empty():
            self._requests.get()()
        self._end_if_deaf()
        self._has_looked = True

    def come_up(self) -> None:
        """From now on the process group is up, and other ranks may end as they mean to."""
        self._is_up = True
        self._line.share()

    @property
    def store(self) -> dist.Store:
        """The store, over the connection that is sooner free."""
        return self._line.store

    def _hear_news(self) -> None:
        if self._has_looked or not self._is_up:  # A world of a moment needs none.
            self._line.take_own()
        self._line.ask(self._bulletin.fetch, None)
        self._hear()
        for record, code in self._neighbours.ended():
            self._see_end(record, code)

    def _hear(self) -> None:
        for entry in self._bulletin.unheard():
            if entry.failure:
                self._hear_of(entry.failure)
            elif entry.kind == "who":
                self._tell_where_it_stands(entry.inquiry)
            elif entry.kind == "closing":
                self._line.lost = "rank 0 has left, and its store with it"
            elif entry.kind == "verdict":
                self._hear_verdict(printable(entry.text))
            else:
                tell(f"warning: an entry of the watches' log cannot be read: {entry.text}")

    def _hear_of(self, failure: Failure) -> None:
        if self.failure is not None or failure.rank == self._post.me.rank:
            return
        self.failure = failure
        self._line.ask(lambda store: store.add(HEARD, 1), 0)
        self.keep(f"heard that {failure}")
        self._deaf = ([], Deadline.after(SPEAK))

    def _tell_where_it_stands(self, inquiry: str) -> None:
        self._inquiry = inquiry
        self._hurry = Deadline.after(HURRIED)
        told = Answer(self._standing(), self._neighbours.held())
        self._line.ask(
            lambda store: _inquiry.answer(store, inquiry, self._post.me.rank, told), None
        )
        self.keep("was asked where it stands")

    def _standing(self) -> Standing:
        return self._progress.standing(self._post.me.rank, str(self._post.me))

    def keep(self, why: str, **more: Any) -> None:
        """Keep where this rank stands, for those who come later, where that is wanted."""
        if _evidence.wanted():
            standing = asdict(self._standing())
            _evidence.keep(self._post.me.rank, why, {"standing": standing, **more})

    def _hear_verdict(self, text: str) -> None:
        stuck = self._progress.stuck()
        self.last_verdict = text
        self._judged = (stuck.what if stuck else None, time.monotonic())
        if stuck:
            self._patience = (stuck, 2 * max(stuck.age, self._post.patience))
        tell(text)
        _evidence.keep_verdict(text)

    def _see_end(self, record: Record, code: int | None) -> None:
        """A rank that ends without having left has failed, unless it meant to end like that."""
        note = left_note(record.rank)
        told: bool | None = None
        told = self._line.ask(lambda store: store.check([note]), told)
        meant = code == 0 or (told is None and code is None)
        if told or (meant and self._is_up):  # None leaves before all are up.
            return
        self._publish(Failure(record.rank, str(record), time.time(), "", _processes.ending(code)))

    def _publish(self, failure: Failure) -> None:
        """Tell all of another rank's failure, unless they know of one; else just this one."""
        entry = Entry("failure", self._post.me.rank, failure=failure)
        self._line.ask(lambda store: self._bulletin.post(store, entry, unless="failure"), None)
        self._hear()
        self._hear_of(failure)

    def search(self, among: Sequence[int] = ()) -> Failure | None:
        """Who has closed a connection to this rank: known, or found by asking all.

        Args:
            among: the ranks that have a connection to this one there; all if not given.
        """
        alone = bool(among) and 0 not in among
        end = Deadline.after(SEARCH)
        while True:
            self._hear_news()
            if found := self.failure:
                return found
            if end.passed or (self._line.lost and (alone or not self._neighbours.watch_over(0))):
                break
            self._neighbours.sleep(0.02)  # A socket is closed a moment before its process ends.
        if self._line.lost:
            return self._the_only_one_gone(among) if alone else self._store_gone()
        return self._who_has_left(among) or self._who_is_missing(among)

    def _the_only_one_gone(self, among: Sequence[int]) -> Failure | None:
        """The rank that has closed a connection, where there is but one, and nobody to be asked."""
        others = [rank for rank in among if rank != self._post.me.rank]
        gone = self._neighbours.ended_soon(others) if others[1:] else others
        text = "has closed its connection: it has left, given up, or died (the store is gone, too)"
        named = [Failure(rank, f"rank {rank}", time.time(), "", text) for rank in gone]
        return named[0] if len(named) == 1 else None

    def _store_gone(self) -> Failure | None:
        how = self._neighbours.condition(0) or "it has left or died"
        who = str(self._post.rank_0 or "rank 0")
        gone = Failure(0, who, time.time(), "", f"is gone, and its store with it: {how}")
        return None if self._post.keeper else gone

    def _who_has_left(self, among: Sequence[int]) -> Failure | None:
        left: Failure | None = None
        if left := self._line.ask(lambda store: first_left(store, among), left):
            self._publish(left)  # Some ranks wait for one that waits for it.
        return self.failure

    def _who_is_missing(self, among: Sequence[int]) -> Failure | None:
        """A rank that closed a connection, gives no answer, and is not seen to live."""
        if self._is_first_to_ask():
            told = self._answers()
            silent = [rank for rank in range(self._post.world_size) if rank not in told]
            gone = [rank for rank in silent if not self._neighbours.is_alive(rank)]
            gone.sort(key=lambda rank: rank not in among)
            if gone and told:
                more = f" (nor do others: {ranges(gone[1:])})" if gone[1:] else ""
                text = f"does not answer{more}: died, or cut off"
                record: Record | None = None
                record = self._line.ask(lambda store: answered(store, gone[0]), record)
                who = str(record or f"rank {gone[0]}")
                self._publish(Failure(gone[0], who, time.time(), "", text))
        else:
            self._await(lambda: self.failure is not None, self._post.hearsay)
        return self.failure

    def _is_first_to_ask(self) -> bool:
        """Ask all ranks where they stand, unless another one has just done so."""
        inquiry = uuid.uuid4().hex
        entry = Entry("who", self._post.me.rank, inquiry=inquiry)
        self._line.ask(lambda store: self._bulletin.post(store, entry, unless="who"), None)
        self._hear()
        return self._inquiry == inquiry

    def _answers(self) -> dict[int, Answer]:
        """What the ranks tell of themselves, by rank."""
        asked, size = self._inquiry, self._post.world_size
        count = partial(_inquiry.count, inquiry=asked)
        self._await(lambda: self._line.ask(count, 0) == size, self._post.answers)
        told: dict[int, Answer] = {}
        return self._line.ask(lambda store: _inquiry.answers(store, asked, size), told)

    def _await(self, is_there: Callable[[], bool], seconds: float) -> None:
        """Wait for what other ranks tell, and hear the news meanwhile."""
        end = Deadline.after(seconds)
        while not is_there() and not end.passed and not self.cut_off:
            if self._stopping:
                raise CancelledError  # Nobody waits for it, and an answer would be of too few.
            time.sleep(self._post.hurry)
            self._line.ask(self._bulletin.fetch, None)
            self._hear()

    def judge(self, *, again: bool = False) -> str:
        """Why this rank's collective does not go on, by what all ranks tell.

        Args:
            again: whether they are asked once more, after an earlier verdict on it.
        """
        stuck, before = self._progress.stuck(), self.last_verdict
        if self._is_judged(stuck) and not again:
            return before
        if self._is_first_to_ask():
            told = self._answers()
            if self._is_still(stuck) and told:
                entry = Entry("verdict", self._post.me.rank, text=self._verdict_on(told))
                self._line.ask(lambda store: self._bulletin.post(store, entry, unless=""), None)
                self._hear()
        else:
            self._await(lambda: self.last_verdict != before, self._post.hearsay)
        if self.cut_off and self._is_still(stuck):
            self._hear_verdict(self._verdict_alone())
        return self.last_verdict

    def _is_still(self, stuck: Stuck | None) -> bool:
        """Whether this rank has not gone on since."""
        now = self._progress.stuck()
        return stuck is None or (now is not None and now.what == stuck.what)

    def _is_judged(self, stuck: Stuck | None) -> bool:
        """Whether the last verdict is on what this rank waits for."""
        if self._judged is None:
            return False
        what, at = self._judged
        waiting = _alarm.waiting  # torch forgets a call that has failed; the program still waits.
        return (stuck is not None and stuck.what == what) or (
            waiting is not None and at > waiting.since
        )

    def _verdict_on(self, told: dict[int, Answer]) -> str:
        standings = {rank: one.standing for rank, one in told.items()}
        silent = [rank for rank in range(self._post.world_size) if rank not in told]
        fates: dict[int, str] = {}
        fates = self._line.ask(lambda store: _inquiry.fates(store, silent), fates)
        held = {rank: how for one in told.values() for rank, how in one.held.items()}
        for rank in silent:
            how = held.get(rank) or self._neighbours.condition(rank)
            if how and rank in fates and "has left" not in fates[rank]:
                fates[rank] += f"; {how}"
        return verdict(standings.get(self._post.me.rank) or self._standing(), standings, fates)

    def _verdict_alone(self) -> str:
        """What this rank knows by itself, where the store does not answer."""
        size, keeper, lost = self._post.world_size, self._post.keeper, bool(self._line.lost)
        fates = _inquiry.fates_unasked(size, keeper, self._neighbours.condition(0), lost=lost)
        held = self._neighbours.held().items()
        fates.update({rank: how for rank, how in held if rank or keeper})
        me = self._standing()
        return verdict(me, {me.rank: me}, fates)

    def _follow_progress(self) -> None:
        quiet = self._progress.quiet()
        if quiet is None or self.failure is not None or quiet.age < self._post.patience / 2:
            return
        stuck = self._progress.stuck()
        before, patience = self._patience
        if stuck is None or before is None or stuck.what != before.what:
            self._patience = (stuck, patience if self._is_judged(stuck) else self._post.patience)
        if stuck is None or stuck.age < self._patience[1]:
            return
        again = self._is_judged(stuck)
        if not again or stuck.age + self._post.answers < self._post.timeout:
            self.judge(again=again)

    def _end_if_deaf(self) -> None:
        """End this process if its program is blocked in torch, deaf to what has happened."""
        if self._deaf is None or self.failure is None or _alarm.told:
            return
        before, end = self._deaf
        lines = _stacks.main_thread()
        if not end.passed:
            return
        if not before or before != lines or self._progress.stuck() is None:
            if not before:
                tell(f"{self._post.me}: {self.failure}; {self.failure.age:.0f} s ago")
            self._deaf = (lines, Deadline.after(GRACE))
            return
        tell(
            f"{self._post.me} is blocked in a collective at {_stacks.of_the_program(lines)}, which "
            f"cannot complete; leaving. First failure: {self.failure}"
        )
        self.keep(f"left, blocked, after {self.failure}")
        for stream in (sys.stdout, sys.stderr):
            _shown.show(stream, "")  # What is written there comes out before we leave.
        os._exit(1)
