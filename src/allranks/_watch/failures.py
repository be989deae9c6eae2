"""What ended a rank, and what calls that wait ask of the active watch."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from allranks._system import stacks, streams
from allranks._system.printable import printable
from allranks._watch import flight_recorder
from allranks.errors import CollectiveError, PeerFailedError, StalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

CONNECTING = "while gloo connected them"
"""When a rank was lost between the roll call and the end of the set-up."""

LOST_PEERS = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|closed during the roll call|PeerFailedError|"
    + CONNECTING
)
"""What a rank says whose peers have left it."""

_PASSED = "(Timed out waiting|timed out connecting|Connect timeout)"
TIMED_OUT = re.compile(
    rf"\.cc:\d+\].*{_PASSED}|connectFullMesh.*{_PASSED}|"
    r"^(\[.*\.cc:\d+\] ?)?Application timeout caused pair closure",
    re.DOTALL,
)
"""What gloo says when its timeout has passed, and a program's own error does not."""

GLOO_LOST = re.compile(
    r"gloo/transport/.*(closed by peer|reset by peer|Broken pipe|(Read|Write) error)"
)
"""What gloo says of a connection that a peer has closed."""

LINK_LOST = "has given up, or left: Connection closed by peer"
"""What is said of a socket of our own that a peer has closed."""

LINES = 40
"""How many lines of a traceback travel."""

SAID = 600
"""How many characters an error shows of another rank's message."""


@dataclass(frozen=True)
class Failure:
    """What ended a rank's part in the job.

    Attributes:
        rank: the rank.
        who: names it, with its process and host, for people.
        at: when, in seconds since the epoch, by the clock of the rank that saw it.
        kind: the exception's type; "" where the rank ended without one.
        message: the exception's message, or what is known of the end.
        line: the program's line, or "".
        traceback: the end of the traceback, or "".
    """

    rank: int
    who: str
    at: float
    kind: str
    message: str
    line: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, rank: int, who: str) -> Failure:
        """The failure that an exception is."""
        line = stacks.raised_at(error.__traceback__)
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        shown = "".join("".join(lines).splitlines(keepends=True)[-LINES:])
        kind = type(error).__name__
        return cls(rank, who, time.time(), kind, str(error), str(line or ""), shown)

    def __str__(self) -> str:
        message = self.message if len(self.message) <= SAID else f"{self.message[:SAID]}..."
        said = f"{self.kind}: {message.rstrip('.')}".removesuffix(": ")
        text = f"failed: {said}" if self.kind else message
        return printable(f"{self.who} {text}{f', at {self.line}' if self.line else ''}")

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, time.time() - self.at)


class WatchInterface(Protocol):
    """What a rank asks of its watch."""

    @property
    def failure(self) -> Failure | None:
        """The first failure of the world that is known here."""

    @property
    def last_verdict(self) -> str:
        """The last verdict that was told; "" if there is none."""

    @property
    def external_store(self) -> str:
        """Names the store where no rank serves it; else ""."""

    def announce(self, error: BaseException) -> None:
        """Tell the other ranks that this one fails, before anything else is done."""

    def echo(self, error: BaseException) -> str | None:
        """What this rank tells of an error that another rank tells in full; None if none does."""

    def find_lost_peer(self, among: Sequence[int] = ()) -> Failure | None:
        """Who of some ranks has closed a connection; takes seconds where it is not known yet."""

    def verdict(self) -> str:
        """What the ranks do instead of completing the collective; "" if unknown."""


@dataclass(frozen=True)
class WaitingCall:
    """A call of ours that has waited for more than a moment.

    Attributes:
        call: names it.
        group: the group's name.
        since: since when, on the monotonic clock.
        ranks: who takes part, where they are not the group's.
    """

    call: str
    group: str
    since: float
    ranks: tuple[int, ...] = ()


active_watch: WatchInterface | None = None
waiting: WaitingCall | None = None
program_knows = False
"""Whether the program has heard that another rank failed."""

_hook_before: Callable[..., object] | None = None


def set_active(watch: WatchInterface) -> None:
    """From now on this watch answers."""
    global active_watch, program_knows
    active_watch, program_knows = watch, False


def hear_uncaught() -> None:
    """From now on the watch hears of the exception that ends the program.

    Torch sets a hook of its own when the process group comes up: ours goes before it.
    """
    global _hook_before
    if _hook_before is None:
        _hook_before, sys.excepthook = sys.excepthook, _at_the_end


def clear_active() -> None:
    """From now on nobody answers; the hook for uncaught exceptions is as it was."""
    global active_watch, waiting, _hook_before  # noqa: PLW0603 - one watch a process
    active_watch = waiting = None
    if sys.excepthook is _at_the_end and _hook_before is not None:
        sys.excepthook = _hook_before
        _hook_before = None


def programs_hook() -> Callable[..., object]:
    """The hook for uncaught exceptions that the program has, beneath ours."""
    ours = sys.excepthook is _at_the_end and _hook_before is not None
    return _hook_before if ours and _hook_before else sys.excepthook


def _at_the_end(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    reason = translated(error)
    announce(reason or error)
    hook = _hook_before or sys.__excepthook__
    echo = active_watch.echo(reason or error) if active_watch and _is_plain(hook) else None
    if echo is not None:
        streams.show(sys.stderr, echo)
        return
    hook(kind, error, frames)
    if reason:
        streams.show(sys.stderr, f"{type(reason).__name__}: {reason}\n")


def _is_plain(hook: Callable[..., object]) -> bool:
    """Whether a hook for uncaught exceptions is Python's or torch's, and does no more than show."""
    return hook.__module__.startswith(("sys", "torch."))


def announce(error: BaseException) -> None:
    """Tell the other ranks that this one fails, where a watch is active."""
    if active_watch is not None:
        active_watch.announce(error)


def begin_wait(call: str, group: str, ago: float = 0.0, ranks: Sequence[int] = ()) -> None:
    """A call of ours has begun to wait for more than a moment, so many seconds ago."""
    global waiting  # noqa: PLW0603 - the main thread's
    waiting = WaitingCall(call, group, time.monotonic() - ago, tuple(ranks))


def end_wait() -> None:
    """The call waits no longer."""
    global waiting  # noqa: PLW0603 - the main thread's
    waiting = None


def raise_if_failed(call: str = "") -> None:
    """Raise what has ended the world, if that is known.

    Args:
        call: what this rank is in, for the error.

    Raises:
        PeerFailedError: another rank has failed.
    """
    if active_watch is not None and active_watch.failure is not None:
        raise peer_failed(active_watch.failure, call)


def cause_of(error: BaseException, among: Sequence[int] = ()) -> Failure | None:
    """Return the failure or departure that caused an error; None if that is not known.

    Args:
        error: what torch, or a call of ours, has raised.
        among: the ranks of the group in which it was raised; all if not given.
    """
    if active_watch is None:
        return None
    lost = isinstance(error, RuntimeError) and is_lost(error)
    if lost or isinstance(error, PeerFailedError) or has_timed_out(error):
        return active_watch.failure or (find_lost_peer(among) if lost else None)
    return None


def is_lost(error: RuntimeError) -> bool:
    """Whether a connection to a peer, or to rank 0's store, was closed from there."""
    told = str(error)
    return bool(GLOO_LOST.search(told)) or LINK_LOST in told or _is_the_stores(error)


def _is_the_stores(error: BaseException) -> bool:
    """Whether torch's client of a store says that the connection is lost."""
    torchs = sys.modules.get("torch.distributed")
    return isinstance(error, getattr(torchs, "DistNetworkError", ()))


def external_store() -> str:
    """Names the store of the world where no rank serves it; else ""."""
    return active_watch.external_store if active_watch is not None else ""


def store_lost(error: BaseException) -> str:
    """What to say of the loss of a store that no rank serves; "" where it is none."""
    store = external_store()
    if not store or not _is_the_stores(error):
        return ""
    return (
        f"{store}, where the ranks have met, is gone ({error}). The ranks may be well; what keeps "
        "that store has ended, or was ended."
    )


def has_timed_out(error: BaseException) -> bool:
    """Whether an error is gloo's or the store's about a timeout, of this call or an earlier one."""
    torchs = sys.modules.get("torch.distributed")
    of_a_store = isinstance(error, getattr(torchs, "DistStoreError", ()))
    return of_a_store or bool(TIMED_OUT.search(str(error)))


def find_lost_peer(among: Sequence[int] = ()) -> Failure | None:
    """Who of some ranks has closed a connection; takes seconds where it is not known yet."""
    return active_watch.find_lost_peer(among) if active_watch is not None else None


def translated(error: BaseException) -> CollectiveError | None:
    """An error of torch's that only says what happened, as one that says who; None if unknown."""
    if not isinstance(error, RuntimeError) or isinstance(error, CollectiveError):
        return None
    if failure := cause_of(error):
        return peer_failed(failure)
    if active_watch is None or not has_timed_out(error):
        return None
    told = active_watch.last_verdict or f"gloo says: {error}{_unseen()}"
    return StalledError(f"a collective did not complete in time; {told}")


def _unseen() -> str:
    why = flight_recorder.why_gloo_is_unseen()
    return f". Which rank was missing is not known: {why}" if why else ""


def verdict() -> str:
    """Why a call that has waited too long does not complete; "" if nobody can tell."""
    return active_watch.verdict() if active_watch is not None else ""


def peer_failed(failure: Failure, call: str = "") -> PeerFailedError:
    """The error for a rank that has lost another one, in a call of ours or elsewhere."""
    global program_knows  # noqa: PLW0603 - one watch a process
    program_knows = True
    while_in = f", while this rank was in {call}" if call else ""
    text = f"{failure}; {failure.age:.1f} s ago{while_in}."
    return PeerFailedError(text, rank=failure.rank, traceback=printable(failure.traceback))


os.register_at_fork(after_in_child=clear_active)  # What a rank forks is no rank.
