"""``gather``: data of all ranks on one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from allranks._collectives.in_place import is_tensor
from allranks._collectives.objects import gather_to_rank
from allranks._system.graph_breaks import outside_graphs
from allranks._transport.tensor_bytes import why_not_dense

if TYPE_CHECKING:
    from allranks._transport.process_groups import Group

T = TypeVar("T")


@outside_graphs
def gather(data: T, dst: int = 0, group: Group | None = None) -> list[T] | None:
    """Gather data from every rank onto one rank. Collective.

    Args:
        data: a tensor, whose sizes may differ between ranks in any dimension, but neither the
            number of dimensions nor the dtype; or anything that pickle can carry (numbers, arrays,
            trees), which may differ in any way. It travels over the CPU.
        dst: the receiver's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        On ``dst`` one entry for each rank of the group, in the order of the ranks, each of the
        kind given; a list of one in a world of one. Tensors are new and plain ones, without
        gradient, on the device of this rank's; this rank's entry of other data is ``data`` itself.
        None on the other ranks.

    Raises:
        CollectiveError: ``data`` cannot be carried, or ``dst`` or this rank is not in the group.
        MismatchError: the ranks made different calls, or with tensors that do not fit together.
    """
    if not is_tensor(data):
        return gather_to_rank("gather of objects", data, dst, group)
    tensor: Any = data
    kind = f"gather of a tensor of {tensor.dtype} with {tensor.dim()} dimensions"
    plain, error = _plain(tensor)
    made = gather_to_rank(kind, plain, dst, group, error and f"gather: {error}")
    if made is None:
        return None
    # This rank's own entry is the data themselves.
    return [one.clone() if one is plain else one.to(tensor.device) for one in made]


def _plain(tensor: Any) -> tuple[Any, str | None]:
    """A tensor without class and history, or why it cannot be sent."""
    import torch

    if why := why_not_dense(tensor):
        return None, why
    return tensor.detach().as_subclass(torch.Tensor), None
