"""``allranks.launch``: call a function on several ranks of this host, from a warm template."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from allranks._collectives.pickling import is_repeated
from allranks._launch.job import RankResult, TemplateClient
from allranks._launch.local_world import local_world
from allranks._launch.rank_output import CallerOutput
from allranks._launch.remote_call import RemoteCall
from allranks._system import interpreter
from allranks._system.graph_breaks import outside_graphs
from allranks._system.words import ranges
from allranks.errors import ConfigError, PeerFailedError, StalledError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_warm: TemplateClient | None = None
_owner = os.getpid()
_one_at_a_time = threading.Lock()


@outside_graphs
def launch(
    fn: Callable[..., T],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    ranks: int,
    timeout: float | None = None,
    fold: bool = True,
) -> list[T]:
    """Call a function on several ranks of this host, each a process of its own. Not collective.

    The ranks are forked from a process that already holds torch, so the first call costs an
    import of torch, and each later one milliseconds. They share nothing with the caller: whatever
    it has done with torch, OpenMP or CUDA. Each draws random numbers of its own, as under torchrun,
    and has a fair share of the CPUs for its threads, unless OMP_NUM_THREADS says otherwise; what it
    cannot have of its own is the seed of Python's hashes, which orders sets of texts. Within the
    function, ``setup`` brings the group up.

    Args:
        fn: any function: a closure, a lambda, or one of a notebook's cell.
        args: its positional arguments, the same on every rank.
        kwargs: its keyword arguments.
        ranks: how many ranks.
        timeout: seconds after which ranks that have not returned are killed; None waits.
        fold: show once what several ranks print alike, and which ranks; False shows every line.

    Returns:
        What the function returned, by rank.

    Raises:
        Exception: what the function raised, with its traceback on the rank that failed first; the
            other ranks' failures are attached as an ExceptionGroup, its cause.
        RankFailedError: a rank ended without a word or by ``sys.exit``, raised what pickle cannot
            carry, or returned and then ended by a signal or with another exit code than 0.
        StalledError: ranks did not return in time; their Python stacks are in the message.
        ConfigError: ``ranks`` is no positive number.
    """
    if ranks < 1:
        raise ConfigError(f"ranks={ranks}: expected an integer of at least 1")
    call = functools.partial(fn, *args, **(kwargs or {}))
    with (
        local_world(ranks) as environs,
        RemoteCall.of(call, environs).packed() as payload,
        _one_at_a_time,
    ):
        output = CallerOutput(ranks, fold=fold)
        try:
            ended = _template().order(ranks, payload, output.write, timeout, output.show_due)
        finally:
            output.show_all()
    _raise_failures(ended, timeout)
    return [one.value for one in ended]


def _template() -> TemplateClient:
    """The warm template of this process, started at first use."""
    global _warm, _owner  # noqa: PLW0603 - one template a process
    if _owner != os.getpid():
        _warm, _owner = None, os.getpid()  # The parent's, which a fork of it must not use.
    if _warm is None or not _warm.alive:
        _warm = TemplateClient(
            interpreter.command("from allranks._launch import remote_call; remote_call.main()")
        )
    return _warm


@atexit.register
def _end_template() -> None:
    if _warm is not None and _owner == os.getpid():
        _warm.close()


def _raise_failures(ended: Sequence[RankResult], timeout: float | None) -> None:
    """Raise the first failure, with the others as the cause of its causes."""
    late = [one for one in ended if one.late]
    failed = sorted((one for one in ended if one.failure and not one.late), key=_when_failed)
    if not failed and late:
        raise _stalled(late, len(ended), timeout)
    if not failed:
        return
    first, *others = [one.failure for one in failed if one.failure]
    if others:
        later = ranges(one.rank for one in failed[1:])
        message = f"after rank {failed[0].rank}, rank{'s' * (len(others) > 1)} {later} failed"
        _last_cause(first).__cause__ = BaseExceptionGroup(message, others)
    raise first


def _when_failed(one: RankResult) -> tuple[bool, float]:
    """Causes first: a rank may hear of another's failure before its parent does."""
    failure = one.failure
    victim = isinstance(failure, PeerFailedError) or (failure and is_repeated(failure))
    return bool(victim), one.at


def _last_cause(error: BaseException) -> BaseException:
    seen = {id(error)}
    while (before := error.__cause__ or error.__context__) and id(before) not in seen:
        seen.add(id(before))
        error = before
    return error


def _stalled(late: Sequence[RankResult], ranks: int, timeout: float | None) -> StalledError:
    stacks = "\n".join(f"Rank {one.rank} (pid {one.pid}):\n{one.where}" for one in late)
    return StalledError(
        f"{len(late)} of {ranks} ranks did not return within {timeout:g} s: "
        f"{ranges(one.rank for one in late)}. Their Python stacks:\n{stacks}"
    )
