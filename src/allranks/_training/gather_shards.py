"""``gather_shards``: what each rank found for its samples, in the order of the data set."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from allranks._collectives.objects import gather_everywhere, gather_to
from allranks._system.graph_breaks import outside_graphs
from allranks._system.words import named
from allranks._training.sample_places import as_indices, check_indices, places_by_shard
from allranks._training.sample_trees import (
    TENSOR,
    LeafKind,
    Samples,
    joined,
    map_leaves,
    taken_apart,
    with_widest_texts,
)
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")

SHOWN = 4
"""How many different structures an error shows."""


@overload
def gather_shards(
    values: T,
    indices: Sequence[int] | torch.Tensor | NDArray[Any] | None = None,
    group: Group | None = None,
    *,
    dst: None = None,
) -> T: ...


@overload
def gather_shards(
    values: T,
    indices: Sequence[int] | torch.Tensor | NDArray[Any] | None = None,
    group: Group | None = None,
    *,
    dst: int,
) -> T | None: ...


@outside_graphs
def gather_shards(
    values: Any,
    indices: Any = None,
    group: Group | None = None,
    *,
    dst: int | None = None,
) -> Any:
    """Put all ranks' results in the order of the data set, each sample once. Collective.

    The other half of ``shard`` and ``ShardSampler``: exactly as many results as there are samples,
    with no padding to cut off.

    Args:
        values: one entry for each of this rank's samples: a tensor (first dimension: samples; on
            any device), a numpy array, a list of any objects that pickle can carry, or a dict or
            tuple of these, nested as you like. Shapes of one sample and dtypes must agree between
            ranks, but for the width of numpy's texts: the result has the widest. A rank without
            samples may pass the same with no entries, or just ``[]``.
        indices: which sample of the data set each entry belongs to, such as ``sampler.indices``:
            integers, over all ranks each of 0..n-1 once. Without, the split is that of ``shard``.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        dst: the global rank that alone gets the result; None means all.

    Returns:
        The same kind of thing for all samples, also on a rank without: tensors are new, without
        gradient, and on the device of this rank's tensor (the CPU where it has none); a list holds
        this rank's own objects and copies of the others'. With ``dst`` None on the other ranks. In
        a world of one, the values in order.

    Raises:
        CollectiveError: on any rank the values or indices are of a wrong kind, or differ in their
            numbers; an object cannot be pickled; or ``dst`` or this rank is not in the group.
        MismatchError: the ranks made different calls; their values do not fit together; without
            indices, their numbers of samples are not those of ``shard``; or an index is missing,
            there twice, or out of range. As any error, the same on all ranks.
    """
    members = process_groups.members_of("gather_shards", group)
    mine = _Offer.of(values, indices, dst, members)
    told = _told_by_all(members, mine.header)
    template = _agreed_template(members, told)
    places = _places(members, mine.indices, [one.number for one in told])
    receivers = None if mine.receiver is None else (mine.receiver,)
    leaves = gather_to("gather_shards: values", mine.samples.leaves, members.group, receivers)
    return None if leaves is None else _in_order(template, places, leaves, mine.samples.devices)


class _Told(NamedTuple):
    """What a rank tells of its samples."""

    number: int
    template: Any


class _Offer(NamedTuple):
    """What this rank brings.

    Attributes:
        samples: its values, taken apart.
        indices: where they belong, if that is told.
        receiver: the index of the member that alone gets the result.
        header: the call, or why this rank cannot make it.
    """

    samples: Samples
    indices: NDArray[np.int64] | None
    receiver: int | None
    header: Header

    @classmethod
    def of(cls, values: Any, indices: Any, dst: Any, members: Members) -> _Offer:
        """Check all arguments before anything is sent."""
        call = "gather_shards" if indices is None else "gather_shards with indices"
        try:
            receiver = None if dst is None else _receiver(dst, members)
            samples = taken_apart(values)
            numbers = None if indices is None else as_indices(indices, samples.number)
            body = pickle.dumps(_Told(samples.number, samples.template))
        except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
            ours = isinstance(error, CollectiveError)
            why = f"{error}" if ours else f"{type(error).__name__}: {error}"
            refused = Header(call, error=f"gather_shards: {why}")
            return cls(Samples(None, {}, {}, 0), None, None, refused)
        to = "" if receiver is None else f" to dst={members.ranks[receiver]}"
        return cls(samples, numbers, receiver, Header(call + to, body))


def _receiver(dst: Any, members: Members) -> int:
    rank, why = members.peer("dst", dst)
    if why:
        raise CollectiveError(why)
    return members.ranks.index(rank)


def _told_by_all(members: Members, header: Header) -> list[_Told]:
    bodies = exchange(members, header)
    return [pickle.loads(body) for body in bodies]  # noqa: S301 - from our own job


def _agreed_template(members: Members, told: Sequence[_Told]) -> Any:
    """The structure of the ranks that have samples; of the first rank where none has."""
    filled = [(rank, one) for rank, one in zip(members.ranks, told, strict=True) if one.number]
    if not filled:
        return told[0].template
    templates = with_widest_texts([one.template for _, one in filled])
    if all(template == templates[0] for template in templates):
        return templates[0]
    by_text: dict[str, list[int]] = {}
    for rank, one in filled:
        by_text.setdefault(repr(one.template), []).append(rank)
    shown = "; ".join(
        f"{named(ranks)}: {text:.200}" for text, ranks in list(by_text.items())[:SHOWN]
    )
    raise MismatchError(f"gather_shards: the ranks' values do not fit together: {shown}")


def _places(
    members: Members, indices: NDArray[np.int64] | None, counts: Sequence[int]
) -> list[NDArray[np.int64]]:
    """Where the samples of each member belong: by all members' indices, else as ``shard`` splits.

    Raises:
        MismatchError: that is not each place once.
    """
    if indices is None:
        return places_by_shard(members.ranks, counts)
    places = gather_everywhere("gather_shards: indices", indices, members.group)
    check_indices(members.ranks, places)
    return places


def _in_order(
    template: Any,
    places: Sequence[NDArray[np.int64]],
    leaves: Sequence[Mapping[str, Any]],
    devices: Mapping[str, Any],
) -> Any:
    """The samples of all members, each in its place.

    Args:
        template: as all members that have samples agree on it.
        places: where the samples of each member belong.
        leaves: what each member has, by their paths.
        devices: where this rank's own tensors are.
    """
    count = sum(map(len, places))
    filled = [(where, of) for where, of in zip(places, leaves, strict=True) if len(where)]

    def result(path: str, kind: LeafKind) -> Any:
        leaf = joined(kind, [(where, of[path]) for where, of in filled], count)
        on_device = kind.kind == TENSOR and path in devices
        return leaf.to(devices[path]) if on_device else leaf

    return map_leaves(result, template)
