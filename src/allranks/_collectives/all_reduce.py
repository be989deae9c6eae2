"""``all_reduce`` and ``reduce``: a tensor in place; or numbers, arrays and trees of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks._collectives.arguments import BITWISE, OPS, named_op
from allranks._collectives.in_place import (
    check_call,
    enable_fast_path,
    is_tensor,
    reduce_by_fast_path,
    reduce_in_place,
    why_not_in_place,
    why_not_reduced_over,
)
from allranks._collectives.reduced_trees import reduce_float, reduce_tree
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups

if TYPE_CHECKING:
    import torch

    from allranks._collectives.arguments import Op
    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")


@outside_graphs
def all_reduce(
    data: T,
    group: Group | None = None,
    average: bool = False,
    device: torch.device | str | None = None,
    *,
    op: Op = "sum",
) -> T:
    """Combine data of all ranks, leaf by leaf, the same result on every rank. Collective.

    Args:
        data: a tensor, which is reduced in place; or a Python number, a numpy scalar or array,
            or a tree (dict, list, tuple, namedtuple, dataclass) of these and of tensors, which
            is left as it is (a tensor in a tree, too). Shapes and dtypes must agree between
            ranks; a number may be an integer on one rank and a float on another. Booleans count
            as integers, except in a tensor, which has no sum of them. The least and greatest of
            floats is NaN if one is.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        device: move a tensor there first; other data travel over the CPU in any case.
        op: "sum", "mean" (as ``average=True``), "min", "max", "prod", or for integers and booleans
            "band", "bor", "bxor"; or torch's, as ``ReduceOp.SUM``, and other spellings of these.

    Returns:
        The same kind of thing: the tensor itself unless ``device`` moved it; an integer exactly
        (64 bits), a float in 64 bits, a float for the mean of integers. Integers in a tensor or
        array wrap around as they do elsewhere in torch and numpy. The tensors of a tree are new;
        small ones may be parts of one allocation. In a world of one the value of ``data``, by the
        same rules.

    Raises:
        CollectiveError: the mean of an integer tensor, a number that overflows, a dtype that
            cannot be reduced, a tensor that overlaps itself or is part of an autograd graph, or
            this rank is not in the group. Nothing was changed.
        MismatchError: the ranks made different calls (not verified for a bare tensor).
    """
    members = process_groups.members_of("all_reduce", group)
    op = named_op(op, average=average)
    if device is None and reduce_by_fast_path(data, op, members):
        return data
    if is_tensor(data):
        result: T = _reduce_tensor(data, op, members, device)
    elif type(data) is float and op in OPS and op not in BITWISE:
        result = reduce_float(data, op, members)
    else:
        result = reduce_tree("all_reduce", data, op, members)
    return result


def _reduce_tensor(tensor: Any, op: str, members: Members, device: Any) -> Any:
    plain = tensor.detach() if tensor.requires_grad else tensor
    moved, why = _moved(plain, device)
    why = why or why_not_reduced_over(members.group, moved, op) or why_not_in_place(tensor)
    check_call(f"all_reduce({op})", tensor, members, why)
    reduce_in_place(moved, op, members)
    enable_fast_path(moved, op, members)
    return tensor if moved is plain else moved


def _moved(tensor: Any, device: Any) -> tuple[Any, str | None]:
    """The tensor on that device, or itself and why it cannot be there."""
    try:
        return tensor if device is None else tensor.to(device), None
    except Exception as error:  # noqa: BLE001 - with check it is raised on all ranks
        told = f"moved from {tensor.device} to {brief_repr(device)}"
        return tensor, f"{told}: {type(error).__name__}: {error}"


@outside_graphs
def reduce(
    data: T,
    dst: int = 0,
    group: Group | None = None,
    average: bool = False,
    *,
    op: Op = "sum",
) -> T | None:
    """Combine data of all ranks, leaf by leaf, on one rank. Collective.

    Large tensors travel as in ``all_reduce``, which is what NCCL and gloo are fast at.

    Args:
        data: as for ``all_reduce``; a tensor is reduced in place on ``dst``, and left as it is
            elsewhere.
        dst: the receiver's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        op: as for ``all_reduce``.

    Returns:
        On ``dst`` what ``all_reduce`` returns, None elsewhere.

    Raises:
        CollectiveError: as for ``all_reduce``, or ``dst`` is not in the group. Nothing was changed.
        MismatchError: the ranks made different calls (verified for a bare tensor, too).
    """
    members = process_groups.members_of("reduce", group)
    dst, why = members.peer("dst", dst)
    call = f"reduce to rank {dst}"
    if is_tensor(data):
        why = why or why_not_in_place(cast("Any", data))
    reduced: Any = reduce_tree(call, data, named_op(op, average=average), members, why)
    if why is None and dst != members.ranks[members.rank]:
        return None
    if not is_tensor(data):
        return cast("T", reduced)
    written: Any = data
    written.detach().copy_(reduced)
    return data
