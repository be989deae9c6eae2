"""What ranks decide together, and what rank 0 does for all of them."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from allranks._collectives.objects import broadcast_as
from allranks._collectives.pickling import dump_error, load_error
from allranks._process_group import stop_signals
from allranks._process_group.host_groups import node_group
from allranks._process_group.turns import turn
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._system.words import tell
from allranks._transport import headers, process_groups
from allranks._transport.headers import Header
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")


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

    def answered(bodies: list[bytes]) -> bytes:
        return bytes([together(map(any, bodies))])

    answer = headers.exchange_and_combine(
        members, header, answered, fold=lambda bodies: [answered(bodies)]
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
def on_master(fn: Callable[[], T], *, per: Literal["job", "node"] = "job") -> T:
    """Call a function on rank 0 alone, and give its result to all ranks. Collective over WORLD.

    The others wait without a collective, however long it takes: no timeout of the group runs out.
    The rank that is called gives a sign of life each second, and the others say so if it stops.

    Args:
        fn: takes no arguments; that of the first rank is called.
        per: "job" calls it on rank 0; "node" on the first rank of each host, whose result the
            ranks of that host get: for what is done once for each local disk.

    Returns:
        What the function returned: on the rank that was called the object itself, elsewhere a
        copy, as ``broadcast_object`` makes it. In a world of one what it returned.

    Raises:
        Exception: what the function raised, on every rank (of the host), with its traceback where
            it was called.
        PeerFailedError: that rank left or died in the meantime.
        CollectiveError: the result cannot be pickled, ``per`` is neither, or ``setup`` was not
            called.
        MismatchError: the ranks made different calls.
    """
    name = f"on_master({getattr(fn, '__name__', type(fn).__name__)})"
    return call_on_first(_first_ranks(name, per), name, fn)


def call_on_first(members: Members, what: str, fn: Callable[[], T]) -> T:
    """Call a function on a group's first rank, and give its result to all. Collective over it."""
    if members.size == 1:
        return fn()
    result, failure = None, None
    with turn(members, what) as mine:
        try:
            result = fn() if mine else None
        except Exception as error:  # noqa: BLE001 - it is raised on all ranks
            failure = error
    first = members.ranks[0]
    carried = [bytes(part) for part in dump_error(failure, first)] if failure else None
    try:
        result, carried = broadcast_as(what, (result, carried), first, members.group)
    except CollectiveError as error:
        if failure:  # This rank's own trouble, whatever befell the others in the meantime.
            raise failure from error
        raise
    if carried:
        raise failure or load_error(carried, first)
    return cast("T", result)


@outside_graphs
@contextmanager
def master_first(*, per: Literal["job", "node"] = "job") -> Iterator[None]:
    """Let rank 0 go through the body before the others do. Collective over WORLD.

    For what is done once and then found done: a download, a file that is built. The others wait
    without a collective, as in ``on_master``.

    Args:
        per: "job" lets rank 0 go first; "node" the first rank of each host, before the others of
            that host: for caches on local disks.

    Raises:
        PeerFailedError: on the others, where the first rank raised in the body, left or died.
        CollectiveError: ``per`` is neither, or ``setup`` was not called.
    """
    members = _first_ranks("master_first", per)
    mine = False
    if members.size > 1:
        with turn(members, "master_first") as mine:
            if mine:
                yield
    if not mine:
        yield


def _first_ranks(what: str, per: object) -> Members:
    """The ranks of which the first one goes first: all, or those of this host."""
    members = process_groups.members_of(what, None)
    known = type(per) is str and per in ("job", "node")
    error = None if known else f'{what}: per={brief_repr(per)} is neither "job" nor "node"'
    if not known:
        headers.exchange_and_combine(members, Header(what, error=error))
    return members if per == "job" else process_groups.members_of(what, node_group())
