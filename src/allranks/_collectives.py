"""Collectives on tensors, numbers, arrays and trees of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from allranks import _groups, _trees
from allranks._headers import (
    Header,
    checking,
    equal_all_gather,
    exchange,
    finish,
    ragged_all_gather,
)
from allranks._numbers import encode, is_number, reduce_numbers
from allranks._objects import gather_everywhere
from allranks._tensors import as_bytes, contiguous, is_contiguous, overlaps, why_not_dense
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    import torch.distributed as dist

    from allranks._groups import Members

T = TypeVar("T")

OPS = ("sum", "mean", "min", "max", "prod")

_GLOO = "bool uint8 int8 int32 int64 float16 bfloat16 float32 float64 complex64 complex128"
REDUCED_BY_GLOO = frozenset(f"torch.{name}" for name in _GLOO.split())


def synchronize(*, group: dist.ProcessGroup | None = None) -> None:
    """Wait until every rank has come to this call. Collective.

    Args:
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        CollectiveError: this rank is not in the group, or ``setup`` was not called.
        MismatchError: the ranks made different calls.
        StalledError: a rank did not come within the group's timeout.
    """
    who = _groups.members("synchronize", group)
    if who.group is None:
        return
    import torch
    import torch.distributed as dist

    if _groups.has_backend(who.group, "cpu"):
        # A header that comes from everyone is a barrier, and tells one who made another call.
        exchange(who, Header("synchronize"))
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
        CollectiveError: ``src`` or this rank is not in the group; or the tensor overlaps itself, is
            part of an autograd graph, or is not contiguous with ``async_op``. Nothing was sent.
    """
    who = _groups.members("broadcast", group)
    who.index("broadcast", src)
    _agree(f"broadcast(src={src})", tensor, who, _why_not_in_place(tensor, async_op=async_op))
    if who.group is None:
        return _done(async_op=async_op)
    import torch.distributed as dist

    def send(dense: torch.Tensor, over: dist.ProcessGroup) -> Any:
        return dist.broadcast(as_bytes(dense), src, group=over, async_op=True)

    return _in_place(tensor, who.group, send, "broadcast", async_op=async_op)


def _done(*, async_op: bool) -> dist.Work | None:
    return _Done() if async_op else None  # type: ignore[return-value]  # looks like a Work


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
            ranks; a number may be an integer on one rank and a float on another. Booleans count
            as integers, except in a tensor, which has no sum of them.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        device: move a tensor there first; other data travel over the CPU in any case.
        op: "sum", "mean" (as ``average=True``), "min", "max" or "prod".

    Returns:
        The same kind of thing: the tensor itself unless ``device`` moved it; an integer exactly
        (64 bits), a float in 64 bits, a float for the mean of integers. Integers in a tensor or
        array wrap around as they do elsewhere in torch and numpy. In a world of one the value of
        ``data``, by the same rules.

    Raises:
        CollectiveError: the mean of an integer tensor, a number that overflows, a dtype that
            cannot be reduced, a tensor that overlaps itself or is part of an autograd graph, or
            this rank is not in the group. Nothing was changed.
        MismatchError: the ranks made different calls (not verified for a bare tensor).
    """
    who = _groups.members("all_reduce", group)
    if average:
        op = "mean" if op in ("sum", "mean") else f"{op} with average=True"
    if _is_tensor(data):
        _agree(f"all_reduce({op})", data, who, _why_not_reduced_in_place(data, op))
        result: T = _reduce_tensor(data, op, who, device)
    else:
        result = _reduce_tree(data, op, who)
    return result


def _reduce_tree(data: Any, op: str, who: Members) -> Any:
    leaves, header = _prepared(data, op)
    headers = exchange(who, header)
    _reduce_flat([leaf.tensor for leaf in leaves if leaf.tensor is not None], op, who)
    columns = zip(*(header.data for header in headers), strict=True)
    reduced = [
        leaf.back(leaf.tensor) if leaf.back else reduce_numbers(op, column, who.rank)
        for leaf, column in zip(leaves, columns, strict=True)
    ]
    return _rebuilt(data, reduced)


def _rebuilt(data: Any, leaves: list[Any]) -> Any:
    try:
        return _trees.rebuild(data, iter(leaves))
    except Exception as error:
        raise CollectiveError(
            f"all_reduce: the result {leaves!r:.200} does not go into a {type(data).__name__}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _is_tensor(data: Any) -> bool:
    import torch

    return isinstance(data, torch.Tensor)


def _agree(call: str, tensor: Any, who: Members, why: str | None) -> None:
    """Refuse a bare tensor that cannot be; with ``check``, only after hearing all ranks."""
    if checking():
        told = "" if why else f" of tensor {tensor.dtype}{list(tensor.shape)}"
        exchange(who, Header(f"{call}{told}", error=f"{call}: {why}" if why else None))
    elif why:
        raise CollectiveError(f"{call} on rank {who.ranks[who.rank]}: {why}")


def _why_not_reduced_in_place(tensor: Any, op: str) -> str | None:
    return _why_no_such_op(op) or _why_not_in_place(tensor) or _why_not_reduced(tensor, op)


def _reduce_tensor(tensor: Any, op: str, who: Members, device: Any = None) -> Any:
    """Reduce a tensor in place, or where ``device`` moves it to."""
    plain = tensor.detach()
    moved = plain if device is None else plain.to(device)
    if who.group is not None:
        import torch.distributed as dist

        reduce_op = getattr(dist.ReduceOp, {"mean": "SUM", "prod": "PRODUCT"}.get(op, op.upper()))

        def send(dense: torch.Tensor, over: dist.ProcessGroup) -> Any:
            return dist.all_reduce(dense, reduce_op, group=over, async_op=True)

        _in_place(moved, who.group, send, "all_reduce")
    if op == "mean":
        moved.div_(who.size)
    return tensor if moved is plain else moved


def _why_no_such_op(op: str) -> str | None:
    return None if op in OPS else f"op={op} is none of {', '.join(OPS)}"


def _why_not_reduced(tensor: torch.Tensor, op: str) -> str | None:
    """Why a tensor of this type has no such sum, mean or other reduction."""
    import torch

    told = f"a tensor of {tensor.dtype} cannot hold the {op} of such tensors"
    if op == "mean" and not (tensor.is_floating_point() or tensor.is_complex()):
        return f"{told}; convert it first, for example with .double()"
    if op == "sum" and tensor.dtype == torch.bool:
        return f"{told}; convert it first, for example with .int(), or ask for min or max"
    if op not in ("sum", "mean") and tensor.is_complex():
        return f"torch has no {op} of tensors of {tensor.dtype}"
    if tensor.device.type == "cpu" and str(tensor.dtype) not in REDUCED_BY_GLOO:
        return f"gloo has no {op} of tensors of {tensor.dtype}; convert it first"
    return None


def _why_not_in_place(tensor: torch.Tensor, *, async_op: bool = False) -> str | None:
    """Why a tensor cannot be overwritten by a result from other ranks."""
    if not _is_tensor(tensor):
        return f"a {type(tensor).__name__} is no tensor; broadcast_object sends anything"
    if why := why_not_dense(tensor) or _why_in_graph(tensor):
        return why
    layout = f"(shape {tuple(tensor.shape)}, strides {tensor.stride()})"
    if overlaps(tensor):
        return f"elements of the tensor share memory, as after expand() {layout}; clone() it"
    if async_op and not is_contiguous(tensor):
        return f"async_op=True needs a contiguous tensor, and this one is not {layout}"
    return None


def _why_in_graph(tensor: torch.Tensor) -> str | None:
    import torch

    if torch.is_grad_enabled() and tensor.requires_grad and not tensor.is_leaf:
        return (
            "the tensor is part of an autograd graph, and no gradient would flow between ranks; "
            "pass tensor.detach()"
        )
    return None


def _in_place(
    tensor: torch.Tensor,
    group: dist.ProcessGroup,
    send: Callable[[torch.Tensor, dist.ProcessGroup], Any],
    what: str,
    *,
    async_op: bool = False,
) -> dist.Work | None:
    """Run a collective that overwrites a tensor, through a dense copy where it needs one."""
    group = _groups.carrier(group, tensor)
    dense = contiguous(tensor)
    if not _groups.has_backend(group, tensor.device.type):
        dense = dense.cpu()
    work: dist.Work | None = send(dense.detach(), group)
    if async_op and dense is tensor:
        return work
    finish(group, work, dense, what)
    if dense is not tensor:
        tensor.detach().copy_(dense)
    return _done(async_op=async_op)


@dataclass
class _Leaf:
    """One leaf of a tree: how it travels, and how its result becomes the caller's kind.

    Attributes:
        told: what must be equal on all ranks.
        number: as ``encode`` makes it, for a number.
        tensor: a copy that may be overwritten, for an array or a tensor.
        back: makes the caller's kind of thing of the reduced tensor.
    """

    told: str
    number: list[Any] | None = None
    tensor: Any = None
    back: Callable[[Any], Any] | None = None


def _prepared(data: Any, op: str) -> tuple[list[_Leaf], Header]:
    """The leaves, and the header; an error in it stops every rank."""
    try:
        if why := _why_no_such_op(op):
            raise CollectiveError(why)  # noqa: TRY301 - as the leaves' errors
        flat = _trees.flatten(data)
        pairs = zip(flat.leaves, flat.paths, strict=True)
        leaves = [_prepare(leaf, op, path) for leaf, path in pairs]
    except (CollectiveError, ValueError) as error:
        return [], Header("all_reduce", error=f"all_reduce: {error}")
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        told = f"all_reduce of a {type(data).__name__}: {type(error).__name__}: {error}"
        return [], Header("all_reduce", error=told)
    told = flat.told([leaf.told for leaf in leaves])
    return leaves, Header(f"all_reduce({op}) of {told}", [leaf.number for leaf in leaves])


def _prepare(leaf: Any, op: str, path: str) -> _Leaf:
    import numpy as np

    try:
        if _is_tensor(leaf):
            return _prepare_tensor(leaf, op)
        if isinstance(leaf, np.ndarray):
            return _prepare_array(leaf, op)
        if is_number(leaf):
            return _Leaf("number", encode(op, leaf))
    except CollectiveError as error:
        raise CollectiveError(f"{path}: {error}") from None
    raise CollectiveError(
        f"{path} = {leaf!r:.60} ({type(leaf).__name__}) is neither a number, an array, a tensor, "
        "nor a tree of these"
    )


def _prepare_tensor(tensor: torch.Tensor, op: str) -> _Leaf:
    why = why_not_dense(tensor) or _why_in_graph(tensor) or _why_not_reduced(tensor, op)
    if why:
        raise CollectiveError(why)
    where = "" if tensor.device.type == "cpu" else f" on {tensor.device.type}"
    told = f"tensor {tensor.dtype}{list(tensor.shape)}{where}"
    copied = contiguous(tensor.detach().clone())
    return _Leaf(told, tensor=copied, back=lambda reduced: reduced)


def _prepare_array(array: Any, op: str) -> _Leaf:
    """An array travels as a tensor that shares its copy's memory."""
    import numpy as np
    import torch

    if not isinstance(array, np.memmap) and type(array) is not np.ndarray:
        raise CollectiveError(
            f"a {type(array).__name__} is more than an array; pass np.asarray(it)"
        )
    copied = np.array(array, dtype=_carried_as(array.dtype, op), order="C", subok=False)
    try:
        tensor = torch.from_numpy(copied)
    except TypeError as error:
        raise CollectiveError(f"an array of {array.dtype}: {error}") from error
    if why := _why_not_reduced(tensor, op):
        raise CollectiveError(why)
    still_bool = array.dtype.kind == "b" and op in ("min", "max")
    told = f"array {array.dtype.name}{list(array.shape)}"
    return _Leaf(told, tensor=tensor, back=lambda _: copied.astype(bool) if still_bool else copied)


def _carried_as(dtype: Any, op: str) -> Any:
    """Booleans are counted, and a mean of integers is a float; in this machine's byte order."""
    import numpy as np

    if op == "mean" and dtype.kind in "biu":
        return np.float64
    if dtype.kind == "b":
        return np.uint8 if op in ("min", "max") else np.int64
    return dtype.newbyteorder("=")


def _reduce_flat(tensors: Sequence[torch.Tensor], op: str, who: Members) -> None:
    """Reduce tensors in place: one flat collective for each dtype and device."""
    import torch

    kinds = dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors)
    for kind in kinds:
        same = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        if flat.numel():
            _reduce_tensor(flat, op, who)
        parts = torch.split(flat, [tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
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
        with its own exact size; a list of one in a world of one. Tensors are new and plain ones,
        without gradient.

    Raises:
        CollectiveError: ``data`` cannot be carried, or this rank is not in the group.
        MismatchError: the ranks made different calls, or with tensors that do not fit together.
    """
    if _is_tensor(data):
        return _gather_tensor(data, group, device)
    return gather_everywhere("all_gather of objects", data, group)


def _gather_tensor(
    data: Any, group: dist.ProcessGroup | None, device: torch.device | str | None
) -> list[Any]:
    who = _groups.members("all_gather", group)
    tensor, error = _gatherable(data, device)
    told = f"all_gather of a tensor of {data.dtype} with {data.dim()} dimensions"
    headers = exchange(who, Header(told, list(data.shape), error))
    if who.group is None:
        return [tensor.clone()]
    return _gather_bytes(tensor, [header.data for header in headers], who.group, who)


def _gatherable(data: torch.Tensor, device: Any) -> tuple[torch.Tensor, str | None]:
    """The tensor as it travels, or why it cannot."""
    import torch

    try:
        moved = data if device is None else data.to(device)
        why = why_not_dense(moved)
        if why is None:
            tensor = contiguous(moved.detach().as_subclass(torch.Tensor))
            as_bytes(tensor)
            return tensor, None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        why = f"{type(error).__name__}: {error}"
    where = f"on {data.device}" if device is None else f"moved from {data.device} to {device}"
    return data, f"all_gather of a tensor of {data.dtype} {where}: {why}"


def _gather_bytes(
    tensor: torch.Tensor, shapes: Sequence[Sequence[int]], group: dist.ProcessGroup, who: Members
) -> list[torch.Tensor]:
    import torch

    group = _groups.carrier(group, tensor)
    over_cpu = not _groups.has_backend(group, tensor.device.type)
    mine = as_bytes(tensor.cpu() if over_cpu else tensor)
    numels = [torch.Size(shape).numel() * tensor.element_size() for shape in shapes]
    if len(set(numels)) == 1:
        parts = equal_all_gather(group, mine, "all_gather")
    else:
        parts = ragged_all_gather(who, group, mine.clone(), numels, "all_gather")
    typed = (part.view(tensor.dtype).view(shape) for part, shape in zip(parts, shapes, strict=True))
    return [part.to(tensor.device) for part in typed]
