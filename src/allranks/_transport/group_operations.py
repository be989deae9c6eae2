"""Data between ranks, once they have agreed on a call: collectives, and messages of exact sizes.

Whatever ends a wait early (the timeout, Ctrl-C, a lost connection) leaves messages under way, which
a later call would take for its own; the group is given up.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from allranks._system.waiting import SLICE, BackgroundCall, StillRunning, done_soon, wait
from allranks._transport import process_groups
from allranks._watch import failures, torch_groups
from allranks.errors import StalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from allranks._transport.process_groups import Members

T = TypeVar("T")

SAID = 240
"""How many characters an error shows of a call that a rank made."""

TAG = 7301
"""Keeps our point-to-point messages apart from the program's own."""


def nothing() -> None:
    """What is done meanwhile, where there is nothing to do."""


def brief(text: str, limit: int = SAID) -> str:
    """The beginning of a text, for an error."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def gather_to_first(group: dist.ProcessGroup, mine: torch.Tensor, into: list[torch.Tensor]) -> Any:
    """Gather tensors of one size on the group's first member; to be finished.

    This and the next two go past torch's own functions, whose checks take as long as the way.
    """
    import torch.distributed as dist

    return group.gather([into] if into else [], [mine], dist.GatherOptions())


def broadcast_from_first(
    group: dist.ProcessGroup,
    tensor: torch.Tensor,
    what: str,
    meanwhile: Callable[[], None] = nothing,
) -> None:
    """Copy a tensor of the group's first member to all."""
    import torch.distributed as dist

    wait_for_collective(
        group, group.broadcast([tensor], dist.BroadcastOptions()), tensor, what, meanwhile
    )


def all_to_all_single(
    group: dist.ProcessGroup,
    mine: torch.Tensor,
    into: torch.Tensor,
    what: str,
    meanwhile: Callable[[], None] = nothing,
) -> None:
    """Exchange equal parts: part i of ``mine`` goes to member i, ``into`` takes one from each."""
    wait_for_collective(group, group.alltoall_base(into, mine, [], []), mine, what, meanwhile)


def all_gather_single(
    group: dist.ProcessGroup, mine: torch.Tensor, into: torch.Tensor, what: str
) -> None:
    """Gather flat tensors of one size from all ranks of a group into one that holds them all."""
    import torch.distributed as dist

    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    wait_for_collective(group, gather(into, mine, group=group, async_op=True), mine, what)


def broadcast_in_turn(members: Members, group: dist.ProcessGroup, parts: Sequence[Any]) -> None:
    """Gather device tensors of known sizes by one broadcast from each member."""
    import torch.distributed as dist

    for rank, part in zip(members.ranks, parts, strict=True):
        if part.numel():
            dist.broadcast(part, rank, group=group)


def send_and_receive(
    group: dist.ProcessGroup,
    send: Sequence[tuple[torch.Tensor, int]],
    receive: Sequence[tuple[torch.Tensor, int]],
    what: str,
    meanwhile: Callable[[], T | None] = nothing,
    *,
    tag: int = TAG,
    limit: timedelta | None = None,
    ranks: Sequence[int] = (),
) -> T | None:
    """Send and receive flat CPU tensors of known sizes, pairs of (tensor, global rank).

    Args:
        group: over which they travel.
        send: what goes to whom.
        receive: what is to be filled by whom.
        what: names the call in errors.
        meanwhile: is done while they travel; others may wait for its end.
        tag: tells them from other messages.
        limit: how long they may take; None means the group's timeout.
        ranks: who takes part, where it is not the whole group.

    Returns:
        What ``meanwhile`` returned.

    Raises:
        PeerFailedError: another rank has failed or left.
        StalledError: they did not arrive within that time.
    """
    import torch.distributed as dist

    limit = limit or process_groups.timeout(group)
    try:
        works = [(dist.irecv(t, r, group=group, tag=tag), r) for t, r in receive if t.numel()]
        works += [(dist.isend(t, r, group=group, tag=tag), r) for t, r in send if t.numel()]
    except BaseException as error:  # A peer may have gone before.
        fail_wait(group, what, error, "a rank", limit, ranks)
        raise
    try:
        result = meanwhile()
    except BaseException:
        torch_groups.mark_unusable(group, f"{brief(what)} ended early")
        raise
    if works:
        _finish_all(group, works, what, limit, ranks)
    return result


def _finish_all(
    group: dist.ProcessGroup,
    works: Sequence[tuple[Any, int]],
    what: str,
    limit: timedelta,
    ranks: Sequence[int],
) -> None:
    """Wait in a thread: a point-to-point operation cannot be waited for in slices."""
    waiting_for = works[0][1]

    def wait_for_all() -> None:
        nonlocal waiting_for
        for work, waiting_for in works:  # noqa: B007 - told if the wait ends early
            work.wait()

    given = limit < process_groups.timeout(group)  # Else gloo's own clock ends the wait first.
    seconds = limit.total_seconds() + (0 if given else 1)
    try:
        failures.begin_wait(brief(what), torch_groups.name_of(group), ranks=ranks)
        BackgroundCall(wait_for_all).result_unless(
            partial(failures.raise_if_failed, brief(what)), seconds
        )
    except BaseException as error:
        fail_wait(group, what, error, f"rank {waiting_for}", limit, ranks)
        raise
    finally:
        failures.end_wait()


def wait_for_collective(
    group: dist.ProcessGroup,
    work: Any,
    tensor: torch.Tensor,
    what: str,
    meanwhile: Callable[[], None] = nothing,
) -> None:
    """Wait for a collective: on the CPU in slices, until the timeout; else as torch does."""
    if work is None:
        return
    if not tensor.is_cpu:
        work.wait()
        return
    try:
        meanwhile()
        if not done_soon(work):
            failures.begin_wait(brief(what), torch_groups.name_of(group), SLICE.total_seconds())
            wait(work, process_groups.timeout(group), failures.raise_if_failed)
    except BaseException as error:
        fail_wait(group, what, error, "at least one rank")
        raise
    finally:
        failures.end_wait()


def fail_wait(
    group: dist.ProcessGroup,
    what: str,
    error: BaseException,
    whom: str,
    limit: timedelta | None = None,
    ranks: Sequence[int] = (),
) -> None:
    """Give a group up in which a wait ended early; whichever clock ended it, raise one error.

    Args:
        group: the group.
        what: names the call.
        error: what ended the wait.
        whom: it waited for, in words.
        limit: how long it might take; None means the group's timeout.
        ranks: who takes part, where it is not the whole group.

    Raises:
        PeerFailedError: another rank has failed, or left, and it is known which.
        StalledError: the timeout has passed.
    """
    timeout = limit or process_groups.timeout(group)
    stalled = isinstance(error, StillRunning) or failures.has_timed_out(error)
    how = f"did not complete within {timeout.total_seconds():g} s"
    torch_groups.mark_unusable(group, f"{brief(what)} {how if stalled else 'ended early'}")
    if culprit := failures.cause_of(error, ranks or torch_groups.global_ranks(group)):
        raise failures.peer_failed(culprit, brief(what)) from None
    if failures.LINK_LOST in str(error) and (told := failures.verdict()):
        raise StalledError(f"{error}; {told}") from None
    if stalled:
        told = failures.verdict() or f"{whom} did not make the same call, or stopped in it."
        raise StalledError(f"{brief(what)} {how}; {told}") from None
