"""Bare tensors: which can be overwritten by a result from other ranks, and how that is done."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from allranks._collectives.arguments import BITWISE, why_no_such_op
from allranks._collectives.extremes import as_floats, as_keys, needs_keys
from allranks._transport import process_groups
from allranks._transport.group_operations import wait_for_collective
from allranks._transport.headers import Header, checking, exchange_and_combine
from allranks._transport.tensor_bytes import (
    contiguous,
    is_contiguous,
    is_plain,
    overlaps,
    why_not_dense,
)
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    import torch.distributed as dist

    from allranks._transport.process_groups import Members

_GLOO = "bool uint8 int8 int32 int64 float16 bfloat16 float32 float64 complex64 complex128"
REDUCED_BY_GLOO = frozenset(f"torch.{name}" for name in _GLOO.split())


def check_call(call: str, tensor: Any, members: Members, why: str | None) -> None:
    """Refuse a bare tensor that cannot be; with ``check``, only after hearing all ranks.

    Args:
        call: the call and its arguments.
        tensor: this rank's.
        members: who takes part.
        why: why it cannot be, or None.

    Raises:
        CollectiveError: it cannot be; with ``check``, on any rank.
        MismatchError: with ``check``, the ranks made different calls.
    """
    if checking():
        told = "" if why else f" of tensor {tensor.dtype}{list(tensor.shape)}"
        refuse = f"{call}: {why}" if why else None
        exchange_and_combine(members, Header(f"{call}{told}", error=refuse))
    elif why:
        raise CollectiveError(f"{call} on rank {members.ranks[members.rank]}: {why}")


def is_tensor(data: Any) -> bool:
    """Whether data are one tensor."""
    import torch

    return isinstance(data, torch.Tensor)


def why_not_reduced_over(
    group: dist.ProcessGroup | None, tensor: torch.Tensor, op: str
) -> str | None:
    """Why a tensor cannot be reduced so over this group."""
    kind = tensor.device.type
    staged = group is not None and not process_groups.has_backend(group, kind)
    return why_not_reduced(tensor.dtype, "cpu" if staged else kind, op)


@lru_cache(maxsize=256)
def why_not_reduced(dtype: torch.dtype, device: str, op: str) -> str | None:
    """Why a tensor of this dtype that travels on this type of device cannot be reduced so."""
    import torch

    if why := why_no_such_op(op):
        return why
    told = f"a tensor of {dtype} cannot hold the {op} of such tensors"
    if op == "mean" and not (dtype.is_floating_point or dtype.is_complex):
        return f"{told}; convert it first, for example with .double()"
    if op in BITWISE and (dtype.is_floating_point or dtype.is_complex):
        return f"there is no {op} of tensors of {dtype}, only of integers and booleans"
    if op == "sum" and dtype == torch.bool:
        return f"{told}; convert it first, for example with .int(), or ask for min or max"
    if op not in ("sum", "mean") and dtype.is_complex:
        return f"torch has no {op} of tensors of {dtype}"
    on_cpu = device == "cpu" or op in BITWISE
    unknown = on_cpu and str(dtype) not in REDUCED_BY_GLOO
    return f"gloo has no {op} of tensors of {dtype}; convert it first" if unknown else None


def why_not_in_place(tensor: torch.Tensor, *, async_op: bool = False) -> str | None:
    """Why a tensor cannot be overwritten by a result from other ranks."""
    if is_plain(tensor):
        return None
    if not is_tensor(tensor):
        return f"a {type(tensor).__name__} is no tensor; broadcast_object sends anything"
    if why := why_not_dense(tensor) or why_in_graph(tensor):
        return why
    layout = f"(shape {tuple(tensor.shape)}, strides {tensor.stride()})"
    if overlaps(tensor):
        return f"elements of the tensor share memory, as after expand() {layout}; clone() it"
    if async_op and not is_contiguous(tensor):
        return f"async_op=True needs a contiguous tensor, and this one is not {layout}"
    return None


def why_in_graph(tensor: torch.Tensor) -> str | None:
    """Why a result must not be written into a tensor that autograd looks at."""
    import torch

    if tensor.requires_grad and not tensor.is_leaf and torch.is_grad_enabled():
        return (
            "the tensor is part of an autograd graph, and no gradient would flow between ranks; "
            "pass tensor.detach(), or make the call within torch.no_grad(); where gradients shall "
            "flow, call allranks.autograd"
        )
    return None


@cache
def torchs_op(op: str) -> Any:
    """Return the ReduceOp of torch. For a mean it is SUM; the caller divides."""
    import torch.distributed as dist

    return getattr(dist.ReduceOp, {"mean": "SUM", "prod": "PRODUCT"}.get(op, op.upper()))


def reduce_in_place(tensor: torch.Tensor, op: str, members: Members) -> None:
    """Reduce a tensor over the ranks, in place."""
    if members.group is not None and needs_keys(tensor.dtype, op):
        keys = as_keys(tensor, op)
        _reduce(keys, op, members.group)
        tensor.detach().copy_(as_floats(keys, tensor.dtype))
    elif members.group is not None:
        _reduce(tensor, op, members.group)
    if op == "mean":
        tensor.div_(members.size)


def _reduce(tensor: torch.Tensor, op: str, group: dist.ProcessGroup) -> None:
    # NCCL combines no bits, so that these travel over the CPU.
    sent = tensor.cpu() if op in BITWISE else tensor
    run_in_place(sent, group, lambda t, over: _all_reduce(t, op, over), "all_reduce")
    if sent is not tensor:
        tensor.detach().copy_(sent)


def reduce_by_fast_path(data: Any, op: str, members: Members) -> bool:
    """Do what is left to do for a tensor that is like an earlier one; whether it was done.

    In a call of few bytes Python costs as much as communication, so that all its steps stand here.
    """
    kept = members.cache
    if type(data) is not kept.get("tensor") or (op, data.dtype, data.is_cpu) not in kept:
        return False
    group, options, strided, device = kept[op, data.dtype, data.is_cpu]
    there = device is None or data.device == device
    plain = there and data.layout is strided and data.is_contiguous()
    if not plain or data.requires_grad or data.is_neg() or checking():
        return False
    wait_for_collective(group, group.allreduce([data], options), data, "all_reduce")
    if op == "mean":
        data.div_(members.size)
    return True


def enable_fast_path(tensor: torch.Tensor, op: str, members: Members) -> None:
    """Let ``reduce_by_fast_path`` take the next tensor of this dtype, now that one was reduced."""
    import torch

    if members.group is None or tensor.is_complex() or needs_keys(tensor.dtype, op):
        return
    over = process_groups.group_for_tensor(members.group, tensor)
    if tensor.is_cpu or (
        process_groups.has_backend(over, tensor.device.type) and op not in BITWISE
    ):
        device = None if tensor.is_cpu else tensor.device
        members.cache["tensor"] = torch.Tensor
        members.cache[op, tensor.dtype, tensor.is_cpu] = over, _options(op), torch.strided, device


def _all_reduce(tensor: torch.Tensor, op: str, group: dist.ProcessGroup) -> Any:
    """Start a reduction, past dist.all_reduce: a tenth of a small call goes into its checks."""
    import torch

    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return group.allreduce([real], _options(op))


@cache
def _options(op: str) -> Any:
    import torch.distributed as dist

    options = dist.AllreduceOptions()
    options.reduceOp = torchs_op(op)
    return options


def run_in_place(
    tensor: torch.Tensor,
    group: dist.ProcessGroup,
    send: Callable[[torch.Tensor, dist.ProcessGroup], Any],
    what: str,
    *,
    async_op: bool = False,
    sends: bool = False,
) -> dist.Work | None:
    """Run a collective that overwrites a tensor, through a dense copy where it needs one.

    Args:
        tensor: what is overwritten.
        group: over which it travels.
        send: starts the collective, on a dense tensor and the group that can move it.
        what: names the call in errors.
        async_op: whether the handle is returned, rather than waited for.
        sends: whether this rank's tensor is only read.
    """
    over = process_groups.group_for_tensor(group, tensor)
    dense = contiguous(tensor)
    if not process_groups.has_backend(over, tensor.device.type):
        dense = dense.cpu()
    sent = dense.detach() if dense.requires_grad else dense
    work: dist.Work | None = send(sent, over)
    if async_op and dense is tensor:
        return work
    wait_for_collective(over, work, dense, what)
    if dense is not tensor and not sends:
        tensor.detach().copy_(dense)
    return completed_work(async_op=async_op)


def completed_work(*, async_op: bool) -> dist.Work | None:
    """What a call returns that is over."""
    return _CompletedWork() if async_op else None  # type: ignore[return-value]  # looks like a Work


class _CompletedWork:
    """The handle of a collective that is over."""

    def wait(self, timeout: object = None) -> bool:  # noqa: ARG002 - as torch's
        return True

    def is_completed(self) -> bool:
        return True
