"""Collectives through which gradients flow: each call's backward is a collective of its own.

What is differentiated is the sum of all ranks' losses. Ranks agree in each call whether a gradient
will flow, so that the backward calls meet, also where only one rank's tensor asks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch.autograd.function import once_differentiable

from allranks._collectives import all_reduce as plain_reduce
from allranks._collectives import all_to_all as plain_swap
from allranks._collectives import broadcast as plain_broadcast
from allranks._collectives import tensors as plain
from allranks._collectives.arguments import named_op, shown
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange_and_combine
from allranks._transport.tensor_bytes import why_in_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._collectives.arguments import Op
    from allranks._transport.process_groups import Group


@overload
def all_gather(
    data: torch.Tensor, group: Group | None = None, *, cat: Literal[False] = False
) -> list[torch.Tensor]: ...


@overload
def all_gather(
    data: torch.Tensor, group: Group | None = None, *, cat: Literal[True]
) -> torch.Tensor: ...


@outside_graphs
def all_gather(data: torch.Tensor, group: Group | None = None, *, cat: bool = False) -> Any:
    """Gather a tensor from every rank onto every rank, with gradients. Collective.

    Args:
        data: of real or complex floats; sizes may differ as in ``allranks.all_gather``.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        cat: give one tensor, the ranks' tensors one after the other along their first dimension.

    Returns:
        As ``allranks.all_gather``. Backward, a rank's tensor gets the sum of the gradients that
        all ranks have for it.

    Raises:
        CollectiveError: as ``allranks.all_gather``, or not a tensor of floats.
        MismatchError: the ranks made different calls.
    """
    anchor = _agreed("all_gather", [data], group)
    made = _applied(_AllGather, group, anchor, data)
    return torch.cat([_rows(one) for one in made]) if cat else list(made)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dim() else tensor.reshape(1)


@outside_graphs
def all_reduce(
    data: torch.Tensor, group: Group | None = None, *, average: bool = False, op: Op = "sum"
) -> torch.Tensor:
    """Add a tensor over all ranks, with gradients. Collective.

    Args:
        data: of real or complex floats, of one shape and dtype on all ranks; left as it is.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        op: "sum" or "mean".

    Returns:
        A new tensor, the same on all ranks. Backward, each rank's tensor gets the sum (or mean) of
        all ranks' gradients.

    Raises:
        CollectiveError: another op, not a tensor of floats, or this rank is not in the group.
        MismatchError: the ranks made different calls.
    """
    name = named_op(op, average=average)
    anchor = _agreed(f"all_reduce({name})", [data], group, _why_no_gradient(name))
    reduced: torch.Tensor = _applied(_AllReduce, group, name, anchor, data)
    return reduced


@outside_graphs
def reduce_scatter(
    data: torch.Tensor | Sequence[torch.Tensor],
    group: Group | None = None,
    *,
    average: bool = False,
    op: Op = "sum",
) -> torch.Tensor:
    """Add part i over all ranks, and return it on member i, with gradients. Collective.

    Args:
        data: as for ``allranks.reduce_scatter``, of real or complex floats.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        op: "sum" or "mean".

    Returns:
        This rank's part, combined over all ranks. Backward, part i on every rank gets member i's
        gradient.

    Raises:
        CollectiveError: as ``allranks.reduce_scatter``, another op, or not tensors of floats.
        MismatchError: the ranks made different calls.
    """
    name = named_op(op, average=average)
    call = f"reduce_scatter({name})"
    parts = _parts(call, data, group)
    anchor = _agreed(call, parts, group, _why_no_gradient(name))
    reduced: torch.Tensor = _applied(_ReduceScatter, group, name, anchor, *parts)
    return reduced


@outside_graphs
def all_to_all(
    data: torch.Tensor | Sequence[torch.Tensor], group: Group | None = None, *, cat: bool = False
) -> Any:
    """Send part i to member i, and receive one part from each, with gradients. Collective.

    Args:
        data: as for ``allranks.all_to_all``: tensors of real or complex floats, of any sizes.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        cat: give one tensor, what came one after the other along its first dimension.

    Returns:
        As ``allranks.all_to_all``. Backward, the gradients go back the way the parts came.

    Raises:
        CollectiveError: as ``allranks.all_to_all``, or not tensors of floats.
        MismatchError: the ranks made different calls.
    """
    parts = _parts("all_to_all", data, group)
    anchor = _agreed("all_to_all", parts, group)
    made = _applied(_AllToAll, group, anchor, *parts)
    return torch.cat([_rows(one) for one in made]) if cat else list(made)


@outside_graphs
def broadcast(data: torch.Tensor, src: int, group: Group | None = None) -> torch.Tensor:
    """One rank's tensor on all ranks, with gradients. Collective.

    Args:
        data: of real or complex floats, of one shape and dtype on all ranks; left as it is.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        A new tensor with the sender's values. Backward, the sender's tensor gets the sum of all
        ranks' gradients; those of the others get zeros.

    Raises:
        CollectiveError: as ``allranks.broadcast``, or not a tensor of floats.
        MismatchError: the ranks made different calls, or with other shapes.
    """
    anchor = _agreed(f"broadcast(src={src})", [data], group)
    sent: torch.Tensor = _applied(_Broadcast, group, src, anchor, data)
    return sent


def _parts(call: str, data: Any, group: Group | None) -> list[Any]:
    """The parts of a tensor, within its graph; what is no tensor or list is refused later."""
    if isinstance(data, torch.Tensor) and data.dim():
        members = process_groups.members_of(f"autograd.{call}", group)
        return list(data.tensor_split(members.size))
    return list(data) if isinstance(data, (list, tuple)) else [data]


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    apply: Any = function.apply
    return apply(*arguments)


def _why_no_gradient(op: str) -> str | None:
    return None if op in ("sum", "mean") else f"op={op:.80} has no gradient here; sum and mean have"


def _agreed(
    call: str, tensors: Sequence[Any], group: Group | None, why: str | None = None
) -> torch.Tensor | None:
    """What makes the result ask for a gradient on all ranks, where it does on any. Collective."""
    members = process_groups.members_of(f"autograd.{call}", group)
    why = why or next(filter(None, map(_why_no_floats, tensors)), None)
    asks = not why and torch.is_grad_enabled() and any(one.requires_grad for one in tensors)
    header = Header(f"autograd.{call}", bytes([asks]), f"autograd.{call}: {why}" if why else None)

    def any_of(told: list[bytes]) -> bytes:
        return bytes([any(map(any, told))])

    flows = exchange_and_combine(members, header, any_of, fold=lambda told: [any_of(told)])
    return torch.zeros((), requires_grad=True) if any(flows) else None


def _why_no_floats(tensor: Any) -> str | None:
    if not isinstance(tensor, torch.Tensor):
        return f"{shown(tensor)} is no tensor"
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return f"a tensor of {tensor.dtype} has no gradient"
    return why_in_parts(type(tensor))


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, _: Any, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.group = group
        return tuple(plain.all_gather(data.detach(), group))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return None, None, plain.reduce_scatter(list(gradients), ctx.group)


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, op: str, _: Any, data: torch.Tensor) -> torch.Tensor:
        ctx.group, ctx.op = group, op
        return _reduced(data, group, op)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return None, None, None, _reduced(gradient, ctx.group, ctx.op)


def _reduced(tensor: torch.Tensor, group: Any, op: str) -> torch.Tensor:
    """A new tensor; one that differs in shape between ranks is noticed."""
    return plain_reduce.all_reduce([tensor.detach()], group, op=op)[0]


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, op: str, _: Any, *parts: torch.Tensor) -> torch.Tensor:
        ctx.group, ctx.op = group, op
        return plain.reduce_scatter([part.detach() for part in parts], group, op=op)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        gradients = plain.all_gather(gradient, ctx.group)
        if ctx.op == "mean":
            gradients = [one / len(gradients) for one in gradients]
        return None, None, None, *gradients


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, _: Any, *parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.group = group
        return tuple(plain_swap.all_to_all([part.detach() for part in parts], group))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return None, None, *plain_swap.all_to_all(list(gradients), ctx.group)


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: Any, src: int, _: Any, data: torch.Tensor) -> torch.Tensor:
        ctx.group, ctx.src = group, src
        made = data.detach().clone()
        plain_broadcast.broadcast([made], src, group)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        total = plain_reduce.reduce(gradient.clone(), ctx.src, ctx.group)
        return None, None, None, torch.zeros_like(gradient) if total is None else total
