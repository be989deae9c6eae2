"""What ranks decide together, and what rank 0 does for all of them."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from allranks._collectives.objects import broadcast_object
from allranks._collectives.pickling import dump_error, load
from allranks._process_group import stop_signals
from allranks._process_group.lifecycle import rank_0, store
from allranks._system import processes
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._system.waiting import BackgroundCall
from allranks._system.words import tell
from allranks._transport import headers, process_groups
from allranks._transport.headers import Header
from allranks._watch import failures
from allranks._watch.store_client import unless_lost
from allranks.errors import CollectiveError, PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord
    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")

BEAT = 1.0
"""Seconds between two signs of life of rank 0, and between two looks at them."""

LOOK = 0.5
"""Seconds between two looks whether rank 0 is done, at most."""

SILENT = 15.0
"""Seconds without a sign of life after which a waiting rank says so."""

DONE, SIGN = "done", "sign"


@outside_graphs
def agree(
    flag: object,
    how: Literal["any", "all"] = "any",
    *,
    group: Group | None = None,
) -> bool:
    """Make one answer of all ranks' answers. Collective.

    Args:
        flag: this rank's answer, taken as true or false.
        how: whether one true answer is enough, or all must be.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        The same on every rank; in a world of one, this rank's.

    Raises:
        CollectiveError: ``how`` is neither, ``flag`` has no truth, or this rank is not in the
            group.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of("agree", group)
    mine, error = b"", None
    try:
        mine = bytes([bool(flag)])
    except Exception as unclear:  # noqa: BLE001 - it is raised on all ranks
        error = f"agree: {type(unclear).__name__}: {unclear}"
    if type(how) is not str or how not in ("any", "all"):
        error = f'agree: how={brief_repr(how)} is neither "any" nor "all"'
    together = any if error or how == "any" else all
    header = Header("agree" if error else f"agree({how})", mine, error)
    answer = headers.exchange_and_combine(
        members, header, lambda bodies: bytes([together(map(any, bodies))])
    )
    return answer == b"\1"


@outside_graphs
def should_stop(*, group: Group | None = None) -> bool:
    """Whether any rank was asked to stop: the same answer on all ranks at one call. Collective.

    From the first call on, SIGTERM and SIGUSR1 no longer end the process but are remembered, until
    ``cleanup``; a Python handler that was there before still runs. Call it once before the loop,
    and once each step: it costs one exchange of small messages, so that a step of a millisecond
    may call it every hundredth time instead.

    Args:
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        True on every rank once any rank has got one of these signals, and from then on.

    Raises:
        ConfigError: the first call was not made by the main thread.
        CollectiveError: this rank is not in the group.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of("should_stop", group)
    stop_signals.listen()
    mine = bytes([stop_signals.received()])
    asked = headers.exchange(members, Header("should_stop", mine))
    first = next((i for i, body in enumerate(asked) if any(body)), None)
    if first is not None and members.rank == 0 and not members.cache.get("told to stop"):
        members.cache["told to stop"] = True
        name = signal.Signals(asked[first][0]).name
        tell(f"stopping all ranks together: rank {members.ranks[first]} got {name}")
    return first is not None


@outside_graphs
def on_master(fn: Callable[[], T]) -> T:
    """Call a function on rank 0 alone, and give its result to all ranks. Collective over WORLD.

    The others wait without a collective, however long it takes: no timeout of the group runs out.
    Rank 0 gives a sign of life each second, and the others say so if it stops.

    Args:
        fn: takes no arguments; that of rank 0 is called.

    Returns:
        What the function returned: on rank 0 the object itself, elsewhere a copy, as
        ``broadcast_object`` makes it. In a world of one what it returned.

    Raises:
        Exception: what the function raised, on every rank, with its traceback on rank 0.
        PeerFailedError: rank 0 left or died in the meantime.
        CollectiveError: the result cannot be pickled, or ``setup`` was not called.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of("on_master", None)
    if members.size == 1:
        return fn()
    result, failure = None, None
    with _turn(members, f"on_master({getattr(fn, '__name__', type(fn).__name__)})") as mine:
        try:
            result = fn() if mine else None
        except Exception as error:  # noqa: BLE001 - it is raised on all ranks
            failure = error
    carried = [bytes(part) for part in dump_error(failure, 0)] if failure else None
    result, carried = broadcast_object((result, carried))
    if carried:
        raise failure or load(carried)
    return cast("T", result)


@outside_graphs
@contextmanager
def master_first() -> Iterator[None]:
    """Let rank 0 go through the body before the others do. Collective over WORLD.

    For what is done once and then found done: a download, a file that is built. The others wait
    without a collective, as in ``on_master``.

    Raises:
        PeerFailedError: on the others, where rank 0 raised in the body, left or died.
        CollectiveError: ``setup`` was not called.
    """
    members = process_groups.members_of("master_first", None)
    mine = False
    if members.size > 1:
        with _turn(members, "master_first") as mine:
            if mine:
                yield
    if not mine:
        yield


@contextmanager
def _turn(members: Members, what: str) -> Iterator[bool]:
    """Rank 0's turn: the block on rank 0 comes before the block on the others."""
    import torch.distributed as dist

    members.cache["turns"] = members.cache.get("turns", 0) + 1
    place = dist.PrefixStore(f"turn/{members.cache['turns']}", store())
    if members.rank > 0:
        _wait_for_rank_0(place, what, rank_0())
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
    """Rank 0's signs of life."""
    with suppress(RuntimeError):  # The store is lost, which rank 0 itself hears elsewhere.
        for count in itertools.count():
            place.set(SIGN, str(count))
            if over.wait(BEAT):
                return


def _wait_for_rank_0(place: dist.Store, what: str, who: RankRecord | None) -> None:
    """Ask often at first, for what takes no time, and seldom later."""
    pause, signs = 0.005, _SignsOfLife(what, who)
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
        raise PeerFailedError(f"rank 0 failed in {what}: {told}", rank=0)


def _store_lost(error: RuntimeError, what: str) -> CollectiveError:
    if culprit := failures.cause_of(error):
        return failures.peer_failed(culprit, what)
    if lost := failures.store_lost(error):
        return CollectiveError(f"{what}: {lost}")
    told = f"the store of rank 0 is lost, in {what}: rank 0 has probably died ({error})"
    return PeerFailedError(told, rank=0)


class _SignsOfLife:
    """Rank 0's signs of life, as a waiting rank sees them."""

    def __init__(self, what: str, rank_0: RankRecord | None) -> None:
        self._what = what
        self._rank_0 = rank_0
        self._here = rank_0 is not None and rank_0.pid_space == processes.pid_space()
        self._sign = b""
        self._since = self._asked = time.monotonic()
        self._next = 0.0

    def ask(self, question: Callable[[], T]) -> T:
        """The store's answer, however long it takes: what ends the wait is heard meanwhile."""
        self._asked = time.monotonic()
        return BackgroundCall(question).result_unless(self._look_around, math.inf)

    def look(self, place: dist.Store) -> None:
        """Read rank 0's sign of life now and then, and tell what follows from it."""
        now = time.monotonic()
        if now > self._next and self.ask(lambda: place.check([SIGN])):
            sign = self.ask(lambda: place.get(SIGN))
            self._since = now if sign != self._sign else self._since
            self._sign, self._next = sign, now + BEAT
        self._look_around()

    def _look_around(self) -> None:
        """What there is to hear and to see without the store, which may go with rank 0."""
        failures.raise_if_failed(self._what)
        first = self._rank_0
        if first and self._here and processes.is_gone(first.pid):
            raise PeerFailedError(f"{first} has died, in {self._what}", rank=0)
        now = time.monotonic()
        if now - self._since > SILENT:
            self._since = now
            tell(f"waiting for {self._silent(now)}")

    def _silent(self, now: float) -> str:
        external_store = failures.external_store()
        if external_store and now - self._asked > LOOK:
            return f"{external_store}, in {self._what}: it does not answer"
        first = self._rank_0
        how = processes.condition(first.pid) if first and self._here else ""
        silent = f"silent for {SILENT:g} s{f'; {how}' if how else ''}"
        return f"{first or 'rank 0'}, in {self._what}: {silent}"
