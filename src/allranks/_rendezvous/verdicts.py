"""Whose a store is, and how its roll call has ended: what any rank reads there before it joins."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from allranks._rendezvous.batches import LOOK
from allranks._rendezvous.record import RollCallResult, Signature, pack, read, revive
from allranks._system.typed_json import written
from allranks.errors import DuplicateRankError, MissingRanksError, RendezvousError, WrongJobError

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.record import RankRecord
    from allranks._system.waiting import Deadline

IDENTITY = "identity"
FAILURE = "failure"
VERDICT = "verdict"
READ = "read"
"""Under this key: how many ranks know of a verdict that the roll call has failed."""

TWO_JOBS = (
    "Two jobs on one port, or a rank started twice? Give each job a MASTER_PORT of its own, or "
    "unset it."
)


def comes(store: dist.Store, key: str, seconds: float) -> bool:
    """Whether a key appears in time; one blocking store call, however long it takes."""
    try:
        store.wait([key], timedelta(seconds=max(seconds, 0.001)))
    except RuntimeError:
        return bool(store.check([key]))
    return True


def signature_of(store: dist.Store, place: str, deadline: Deadline) -> Signature:
    """How rank 0 has signed a store.

    Raises:
        MissingRanksError: nobody signs it by the deadline.
        RendezvousError: something else stands there, as of another release.
    """
    if not comes(store, IDENTITY, deadline.left):
        raise MissingRanksError(
            f"the store at {place} answers, but no rank 0 of allranks has signed it within "
            f"{deadline.seconds:g} s: rank 0 is missing, or the store is another program's.",
            missing=[0],
        )
    return read(Signature, store.get(IDENTITY), IDENTITY, place)


def is_closed(store: dist.Store) -> bool:
    """Whether the roll call on a store is over."""
    return bool(store.check([VERDICT]))


def read_verdict(store: dist.Store, place: str, readers: int = 1) -> RollCallResult:
    """Rank 0's verdict, once it is there.

    Args:
        store: where it stands.
        place: names the store.
        readers: how many ranks will know of it by this.

    Raises:
        RendezvousError: the verdict is that the roll call failed.
    """
    verdict = read(RollCallResult, store.get(VERDICT), VERDICT, place)
    if verdict.error:
        store.add(READ, readers)
        raise revive(verdict.error)
    return verdict


def tell_failure(store: dist.Store, error: RendezvousError) -> None:
    """Have rank 0 tell all ranks why the roll call fails."""
    store.set(FAILURE, written(pack(error)))
    store.set(LOOK, "")


def refuse_foreign(store: dist.Store, me: RankRecord, place: str, deadline: Deadline) -> None:
    """Raise what a rank must say to a store that it cannot join.

    Raises:
        WrongJobError: the store is another job's, or its job is complete.
        RendezvousError: the roll call of this job failed, and how.
        DuplicateRankError: this rank 0 is the second one; the first is told, since nobody can
            know which of the two the other ranks belong to.
    """
    signed = signature_of(store, place, deadline).rank_0
    if signed.job != me.job:
        raise WrongJobError(
            f"the store at {place} belongs to job {signed.job!r} ({signed}), and this process, "
            f"{me}, is of job {me.job!r}. {TWO_JOBS}"
        )
    if is_closed(store):
        read_verdict(store, place)
        raise WrongJobError(
            f"the job at {place} is complete ({signed}), and this process, {me}, is not part of "
            f"it. {TWO_JOBS}"
        )
    if me.rank == 0:
        error = duplicate(signed, me)
        tell_failure(store, error)
        raise error


def duplicate(first: RankRecord, second: RankRecord) -> DuplicateRankError:
    """The error for two processes with one rank."""
    return DuplicateRankError(
        f"rank {first.rank} is claimed twice: by {first}, and by {second}. Is the script started "
        f"once per node without its launcher? {TWO_JOBS}",
        rank=first.rank,
    )
