"""Collectives on tensors, numbers, arrays and trees of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from allranks import _groups, _trees
from allranks._headers import Header, equal_all_gather, exchange, finish, ragged_all_gather
from allranks._numbers import encode, is_number, reduce_numbers
from allranks._objects import all_gather_objects
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    import torch.distributed as dist

    from allranks._groups import Members

T = TypeVar("T")

OPS = ("sum", "mean", "min", "max", "prod")


def synchronize(*, group: dist.ProcessGroup | None = None) -> None:
    """Wait until every rank has come to this call. Collective.

    Args:
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        CollectiveError: this rank is not in the group, or ``setup`` was not called.
        StalledError: a rank did not come within the group's timeout.
    """
    who = _groups.members("synchronize", group)
    if who.group is None:
        return
    import torch
    import torch.distributed as dist

    if _groups.has_backend(who.group, "cpu"):
        work = dist.barrier(who.group, async_op=True)
        finish(who.group, work, torch.empty(0), "synchronize")
    else:
        dist.barrier(who.group, device_ids=[torch.accelerator.current_device_index()])


def broadcast(
    tensor: torch.Tensor,
    src: int,
    group: dist.ProcessGroup | None = None,
    async_op: bool = False,
) -> dist.Work | None:
    """Copy one rank's tensor into the tensors of all ranks, in place. Collective.

    Args:
        tensor: of one shape and dtype on all ranks; read on ``src``, overwritten elsewhere.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        async_op: return at once; the tensor must then be contiguous.

    Returns:
        None; with ``async_op`` torch's handle, to be waited for.

    Raises:
        CollectiveError: ``src`` or this rank is not in the group, or the tensor overlaps itself,
            or is not dense with ``async_op``. Nothing was sent.
    """
    who = _groups.members("broadcast", group)
    who.index("broadcast", src)
    _refuse_sparse_memory("broadcast", tensor, async_op=async_op)
    if who.group is None:
        return _Done() if async_op else None  # type: ignore[return-value]  # looks like a Work
    import torch.distributed as dist

    def send(dense: torch.Tensor, over: dist.ProcessGroup) -> dist.Work | None:
        return dist.broadcast(dense, src, group=over, async_op=True)

    return _in_place(tensor, who.group, send, "broadcast", async_op=async_op)


class _Done:
    """The handle of a collective that a world of one has already done."""

    def wait(self, timeout: object = None) -> bool:  # noqa: ARG002 - as torch's
        return True

    def is_completed(self) -> bool:
        return True


def all_reduce(
    data: T,
    group: dist.ProcessGroup | None = None,
    average: bool = False,
    device: torch.device | str | None = None,
    *,
    op: str = "sum",
) -> T:
    """Combine data of all ranks, leaf by leaf, the same result on every rank. Collective.

    Args:
        data: a tensor, which is reduced in place; or a Python number, a numpy scalar or array,
            or a tree (dict, list, tuple, namedtuple, dataclass) of these and of tensors, which
            is left as it is (a tensor in a tree, too). Shapes and dtypes must agree between
            ranks; a number may be an integer on one rank and a float on another.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        device: move a tensor there first; other data travel over the CPU in any case.
        op: "sum", "mean" (as ``average=True``), "min", "max" or "prod".

    Returns:
        The same kind of thing: the tensor itself unless ``device`` moved it; an integer exactly
        (64 bits), a float in 64 bits, a float for the mean of integers. In a world of one the
        value of ``data``, by the same rules.

    Raises:
        CollectiveError: the mean of an integer tensor, an integer that overflows, a tensor that
            overlaps itself or is part of an autograd graph, or this rank is not in the group.
        MismatchError: the ranks made different calls (not verified for a bare tensor).
    """
    op = _op("all_reduce", op, average=average)
    who = _groups.members("all_reduce", group)
    if _is_tensor(data):
        return _reduce_tensor(data if device is None else data.to(device), op, who)
    leaves, shape = _trees.flatten(data)
    reduced = _reduce_leaves(leaves, shape, op, who)
    result: T = _trees.rebuild(data, iter(reduced))
    return result


def _op(call: str, op: str, *, average: bool) -> str:
    if op not in OPS:
        raise CollectiveError(f"{call}: op={op!r}; expected one of {', '.join(OPS)}")
    if average and op not in ("sum", "mean"):
        raise CollectiveError(f"{call}: average=True contradicts op={op!r}")
    return "mean" if average else op


def _is_tensor(data: Any) -> Any:
    import torch

    return isinstance(data, torch.Tensor)


def _reduce_tensor(tensor: Any, op: str, who: Members) -> Any:
    _refuse_tensor("all_reduce", tensor, op)
    plain = tensor.detach()
    if who.group is not None:
        import torch.distributed as dist

        reduce_op = getattr(dist.ReduceOp, "SUM" if op == "mean" else op.upper())

        def send(dense: torch.Tensor, over: dist.ProcessGroup) -> dist.Work | None:
            return dist.all_reduce(dense, reduce_op, group=over, async_op=True)

        _in_place(plain, who.group, send, "all_reduce")
    if op == "mean":
        plain.div_(who.size)
    return tensor


def _refuse_tensor(call: str, tensor: torch.Tensor, op: str) -> None:
    import torch

    _refuse_sparse_memory(call, tensor)
    if op == "mean" and not (tensor.is_floating_point() or tensor.is_complex()):
        raise CollectiveError(
            f"{call}: the mean of a tensor of {tensor.dtype} is no such tensor; convert it first, "
            "for example with .double()"
        )
    if torch.is_grad_enabled() and tensor.requires_grad and not tensor.is_leaf:
        raise CollectiveError(
            f"{call}: the tensor is part of an autograd graph, and no gradient would flow between "
            "ranks; pass tensor.detach()"
        )


def _refuse_sparse_memory(call: str, tensor: torch.Tensor, *, async_op: bool = False) -> None:
    """Refuse what cannot be written in place, before anything is sent."""
    import torch

    if tensor.layout != torch.strided:
        raise CollectiveError(f"{call}: a tensor of layout {tensor.layout}; pass a dense one")
    if _overlaps(tensor):
        raise CollectiveError(
            f"{call}: elements of the tensor share memory (shape {tuple(tensor.shape)}, strides "
            f"{tensor.stride()}), as after expand(); pass tensor.contiguous()"
        )
    if async_op and not tensor.is_contiguous():
        raise CollectiveError(f"{call}: async_op=True needs a contiguous tensor")


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether two elements of a tensor may lie at one address."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


def _in_place(
    tensor: torch.Tensor,
    group: dist.ProcessGroup,
    send: Callable[[torch.Tensor, dist.ProcessGroup], dist.Work | None],
    what: str,
    *,
    async_op: bool = False,
) -> dist.Work | None:
    """Run a collective that overwrites a tensor, through a dense copy where it needs one."""
    group = _groups.carrier(group, tensor)
    dense = tensor if tensor.is_contiguous() else tensor.contiguous()
    if not _groups.has_backend(group, tensor.device.type):
        dense = dense.cpu()
    work = send(dense.detach(), group)
    if async_op and dense is tensor:
        return work
    finish(group, work, dense, what)
    if dense is not tensor:
        tensor.detach().copy_(dense)
    return _Done() if async_op else None  # type: ignore[return-value]  # looks like a Work


@dataclass
class _Leaf:
    """One leaf of a tree: how it travels, and how its result becomes the caller's kind.

    Attributes:
        told: what must be equal on all ranks.
        number: its value as JSON, for a number.
        tensor: a copy that may be overwritten, for an array or a tensor.
        back: makes the caller's kind of thing of the reduced number or tensor.
    """

    told: str
    back: Callable[[Any], Any]
    number: Any = None
    tensor: Any = None


def _reduce_leaves(leaves: Sequence[Any], shape: str, op: str, who: Members) -> list[Any]:
    try:
        prepared = [_prepare(leaf, op) for leaf in leaves]
        told = f"all_reduce(op={op}) of {shape} [{', '.join(leaf.told for leaf in prepared)}]"
        header = Header(told, [leaf.number for leaf in prepared])
    except CollectiveError as error:
        header = Header("all_reduce", error=str(error))
    headers = exchange(who, header)
    _reduce_flat([leaf.tensor for leaf in prepared if leaf.tensor is not None], op, who)
    columns = zip(*(header.data for header in headers), strict=True)
    return [
        leaf.back(column if leaf.tensor is None else leaf.tensor)
        for leaf, column in zip(prepared, columns, strict=True)
    ]


def _prepare(leaf: Any, op: str) -> _Leaf:
    import numpy as np

    if _is_tensor(leaf):
        _refuse_tensor("all_reduce", leaf, op)
        told = f"tensor {leaf.dtype}{list(leaf.shape)}"
        return _Leaf(told, lambda result: result, tensor=leaf.detach().clone().contiguous())
    if isinstance(leaf, np.ndarray):
        return _prepare_array(leaf, op)
    if is_number(leaf):
        return _Leaf("number", lambda column: reduce_numbers(op, column, leaf), encode(op, leaf))
    raise CollectiveError(
        f"all_reduce: a {type(leaf).__name__} is neither a number, an array, a tensor, nor a tree "
        "of these"
    )


def _prepare_array(array: Any, op: str) -> _Leaf:
    """An array travels as a tensor; booleans are counted, and a mean of integers is a float."""
    import numpy as np
    import torch

    wide = array
    if op == "mean" and array.dtype.kind in "biu":
        wide = array.astype(np.float64)
    elif array.dtype.kind == "b":
        wide = array.astype(np.uint8 if op in ("min", "max") else np.int64)
    try:
        tensor = torch.from_numpy(np.array(wide, order="C", subok=False))
    except TypeError as error:
        raise CollectiveError(f"all_reduce: an array of {array.dtype}: {error}") from error

    def back(result: torch.Tensor) -> Any:
        made = result.numpy()
        return made.astype(bool) if made.dtype == np.uint8 != array.dtype else made

    return _Leaf(f"array {array.dtype}{list(array.shape)}", back, tensor=tensor)


def _reduce_flat(tensors: Sequence[torch.Tensor], op: str, who: Members) -> None:
    """Reduce tensors in place: one flat collective for each dtype and device."""
    import torch

    kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
    for kind in kinds:
        same = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        if flat.numel():
            _reduce_tensor(flat, op, who)
        for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def all_gather(
    data: T, group: dist.ProcessGroup | None = None, device: torch.device | str | None = None
) -> list[T]:
    """Gather data from every rank onto every rank. Collective.

    Args:
        data: a tensor, whose sizes may differ between ranks in any dimension, but neither the
            number of dimensions nor the dtype; or anything that pickle can carry (numbers,
            arrays, trees), which may differ in any way.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        device: move a tensor there first.

    Returns:
        One entry for each rank of the group, in the order of the ranks, each of the kind given,
        with its own exact size; a list of one in a world of one. Tensors are new ones, without
        gradient.

    Raises:
        CollectiveError: ``data`` cannot be carried, or this rank is not in the group.
        MismatchError: the ranks made different calls, or with tensors that do not fit together.
    """
    if _is_tensor(data):
        return _gather_tensor(data if device is None else data.to(device), group)
    return all_gather_objects(data, group)


def _gather_tensor(tensor: Any, group: dist.ProcessGroup | None) -> list[Any]:
    who = _groups.members("all_gather", group)
    sparse = f"all_gather: a tensor of layout {tensor.layout}; pass a dense one"
    headers = exchange(
        who,
        Header(
            f"all_gather of tensor {tensor.dtype} with {tensor.dim()} dimensions",
            list(tensor.shape),
            None if str(tensor.layout) == "torch.strided" else sparse,
        ),
    )
    plain = tensor.detach().resolve_conj().resolve_neg()
    if who.group is None:
        return [plain.clone()]
    return _gather_bytes(plain, [header.data for header in headers], who.group, who)


def _gather_bytes(
    tensor: Any, shapes: Sequence[Sequence[int]], group: dist.ProcessGroup, who: Members
) -> list[Any]:
    """Gather tensors as bytes, which every backend moves, whatever their dtype."""
    import torch

    group = _groups.carrier(group, tensor)
    over_cpu = not _groups.has_backend(group, tensor.device.type)
    dense = (tensor.cpu() if over_cpu else tensor).contiguous()
    mine = dense.reshape(-1).view(torch.uint8) if dense.numel() else dense.new_empty(0).byte()
    numels = [torch.Size(shape).numel() * tensor.element_size() for shape in shapes]
    if len(set(numels)) == 1:
        parts = equal_all_gather(group, mine)
    else:
        parts = ragged_all_gather(who, group, mine.clone(), numels)
    typed = (part.view(tensor.dtype).view(shape) for part, shape in zip(parts, shapes, strict=True))
    return [part.to(tensor.device) for part in typed]
