"""``all_reduce``: a tensor in place; or numbers, arrays and trees of them."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, TypeVar

from allranks._collectives import scalars, trees
from allranks._collectives.arguments import BITWISE, OPS, named_op, shown, why_no_such_op
from allranks._collectives.flat import ResultMemory, apart, folded, join, stacked
from allranks._collectives.in_place import (
    check_call,
    enable_fast_path,
    is_tensor,
    reduce_by_fast_path,
    reduce_in_place,
    why_in_graph,
    why_not_in_place,
    why_not_reduced,
)
from allranks._system.bounded_cache import remembered
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups
from allranks._transport.group_operations import nothing
from allranks._transport.headers import Header, exchange_and_combine, fits_inline
from allranks._transport.tensor_bytes import from_bytes, to_bytes, why_in_parts, why_no_block
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from allranks._collectives.trees import FlatTree, TreeNode
    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")

Signature: TypeAlias = "tuple[Any, ...]"

NUMBER: Signature = ()

NO_NUMBERS = scalars.floats([])

FACTS = attrgetter("__class__", "dtype", "shape", "layout", "device")
"""The signature of a tensor."""

REQUIRES_GRAD = attrgetter("requires_grad")


@outside_graphs
def all_reduce(
    data: T,
    group: Group | None = None,
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
        result = _reduce_float(data, op, members)
    else:
        result = _reduce_tree(data, op, members)
    return result


def _reduce_tensor(tensor: Any, op: str, members: Members, device: Any) -> Any:
    plain = tensor.detach() if tensor.requires_grad else tensor
    moved, why = _moved(plain, device)
    why = why or why_not_reduced(moved.dtype, moved.device.type, op) or why_not_in_place(tensor)
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


def _reduce_float(number: Any, op: str, members: Members) -> Any:
    """The fast path of ``_reduce_tree`` for one Python float."""
    packed = scalars.floats([number])
    header = Header(f"all_reduce({op}) of number", packed.body)
    [result] = packed.results(
        exchange_and_combine(members, header, lambda all_: scalars.reduce_packed(op, all_, 1))
    )
    return result


def _reduce_tree(data: Any, op: str, members: Members) -> Any:
    try:
        packed = _PackedLeaves(data, op)
    except (CollectiveError, ValueError) as error:
        _refuse(members, f"all_reduce: {error}")
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        _refuse(members, f"all_reduce of a {type(data).__name__}: {type(error).__name__}: {error}")
    return _rebuilt(data, packed.exchanged(members), packed.node)


def _refuse(members: Members, why: str) -> NoReturn:
    exchange_and_combine(members, Header("all_reduce", error=why))
    raise CollectiveError(why)


def _rebuilt(data: Any, leaves: list[Any], node: TreeNode | None) -> Any:
    try:
        return trees.rebuild(data, iter(leaves), node)
    except Exception as error:
        raise CollectiveError(
            f"all_reduce: the result {brief_repr(leaves)} does not go into a "
            f"{type(data).__name__}: {type(error).__name__}: {error}"
        ) from error


class _FlatBatch(NamedTuple):
    """The leaves that travel in one flat tensor.

    Attributes:
        indices: which of the leaves.
        shapes: of each.
        shape: of each, if it is the same.
        plain: whether all of them are plain tensors.
    """

    indices: tuple[int, ...]
    shapes: tuple[Sequence[int], ...]
    shape: Sequence[int] | None
    plain: bool


class _PackingPlan(NamedTuple):
    """How leaves of these signatures travel.

    Attributes:
        call: the call in words.
        numbers: which of the leaves are numbers.
        batches: the others, one for each dtype and device.
    """

    call: str
    numbers: tuple[int, ...]
    batches: tuple[_FlatBatch, ...]


@remembered(lambda _op, node, _signatures: trees.size(node))
def _planned(op: str, node: TreeNode | None, signatures: Sequence[Signature]) -> _PackingPlan:
    """The plan for a tree; remembered, since a program repeats its calls.

    Raises:
        CollectiveError: there is no such reduction, or not of a leaf.
    """
    if why := why_no_such_op(op):
        raise CollectiveError(why)
    together: dict[Any, list[int]] = {}
    for index, (path, told) in enumerate(zip(trees.paths(node), signatures, strict=True)):
        if why := _why_no_leaf(told, op):
            raise CollectiveError(f"{path}: {why}")
        together.setdefault(_travels_as(told, op), []).append(index)
    numbers = tuple(together.pop(None, ()))
    batches = tuple(_batch(indices, signatures) for indices in together.values())
    told_all = trees.told(node, map(_told, signatures))
    return _PackingPlan(f"all_reduce({op}) of {told_all}", numbers, batches)


def _batch(indices: Sequence[int], signatures: Sequence[Signature]) -> _FlatBatch:
    import torch

    shapes = tuple(signatures[i][2] for i in indices)
    plain = all(signatures[i][0] is torch.Tensor for i in indices)
    return _FlatBatch(tuple(indices), shapes, shapes[0] if len(set(shapes)) == 1 else None, plain)


@remembered(lambda _op, node, _signature, _count: trees.size(node))
def _planned_alike(
    op: str, node: TreeNode | None, signature: Signature, count: int
) -> _PackingPlan:
    """The plan for a tree of leaves that are all alike, found sooner."""
    return _planned(op, node, (signature,) * count)


def _travels_as(signature: Signature, op: str) -> Any:
    """The dtype and device of the tensor in which a leaf travels; None for a number."""
    if _is_tensors(signature):
        return signature[1], signature[4]
    return _carried_as(signature[1], op) if signature else None


def _is_tensors(signature: Signature) -> bool:
    return len(signature) == 5


class _PackedLeaves:
    """The leaves of a tree, packed to travel: numbers, and one flat tensor for each dtype."""

    def __init__(self, data: Any, op: str) -> None:
        flat = trees.flatten(data)
        self.node = flat.node
        self._op = op
        self._leaves = flat.leaves
        self._numbers = NO_NUMBERS
        self._rows = stacked(flat.leaves)
        if self._rows is not None:
            self._plan = _planned_alike(op, flat.node, FACTS(flat.leaves[0]), len(flat.leaves))
            self._flats = [self._rows.view(-1)]
        else:
            self._plan = _planned(op, flat.node, _signatures(flat))
            self._numbers = self._packed(flat)
            self._flats = [self._flat(batch) for batch in self._plan.batches]

    def _packed(self, flat: FlatTree) -> scalars.PackedScalars:
        numbers = [flat.leaves[i] for i in self._plan.numbers]
        if set(map(type, numbers)) <= {float} and self._op not in BITWISE:
            return scalars.floats(numbers)
        encoded = _each(flat, lambda leaf: scalars.encode(self._op, leaf), self._plan.numbers)
        return scalars.PackedScalars.of(encoded)

    def _flat(self, batch: _FlatBatch) -> torch.Tensor:
        tensors = [self._leaves[i] for i in batch.indices]
        if not batch.plain:
            tensors = [_travelling(leaf, self._op) for leaf in tensors]
        return join(tensors, batch.shape)

    def exchanged(self, members: Members) -> list[Any]:
        """Exchange the leaves, and return the reduced ones.

        All travel in the headers if the flat tensors are small together and on the CPU; otherwise
        each flat tensor is reduced by torch.
        """
        small = fits_inline(members, sum(flat.nbytes for flat in self._flats))
        inline = small and all(flat.is_cpu for flat in self._flats)
        sent = self._flats if inline else []
        body = b"".join([*map(to_bytes, sent), self._numbers.body])
        rooms: list[ResultMemory] = []
        meanwhile = partial(self._make_room, rooms) if inline else nothing
        answer = exchange_and_combine(
            members, Header(self._plan.call, body), self._combiner(sent), meanwhile
        )
        raws, numbers = _cut(answer, sent)
        if rooms:
            rooms[0].memory[:] = raws[0]
            return rooms[0].parts
        flats = [from_bytes(raw, flat.dtype) for raw, flat in zip(raws, sent, strict=True)]
        for flat in () if inline else self._flats:
            if flat.numel():
                reduce_in_place(flat, self._op, members)
        return self._unpacked(flats or self._flats, self._numbers.results(numbers))

    def _make_room(self, rooms: list[ResultMemory]) -> None:
        """Make the results' tensors where that is quick."""
        import torch

        if self._rows is not None and self._rows.dtype != torch.bfloat16:
            rooms.append(ResultMemory.like(self._rows))

    def _combiner(self, sent: Sequence[torch.Tensor]) -> Callable[[list[bytes]], bytes]:
        """Reduces all ranks' bodies to one."""

        def combine(bodies: list[bytes]) -> bytes:
            rows = [_cut(body, sent) for body in bodies]
            columns = zip(*(raws for raws, _ in rows), strict=True)
            pairs = zip(columns, sent, strict=True)
            done = [to_bytes(folded(column, flat.dtype, self._op)) for column, flat in pairs]
            numbers = [packed for _, packed in rows]
            return b"".join([*done, self._reduced(numbers)])

        return combine

    def _reduced(self, numbers: list[bytes]) -> bytes:
        count = len(self._plan.numbers)
        return scalars.reduce_packed(self._op, numbers, count) if count else numbers[0]

    def _unpacked(self, flats: Sequence[torch.Tensor], numbers: Sequence[Any]) -> list[Any]:
        """All leaves, each of the caller's kind."""
        if len(numbers) == len(self._leaves):
            return list(numbers)
        batches = self._plan.batches
        if [batch.plain for batch in batches] == [True] and not numbers:
            return list(apart(flats[0], batches[0].shapes, batches[0].shape))
        made = dict(zip(self._plan.numbers, numbers, strict=True))
        for batch, flat in zip(batches, flats, strict=True):
            parts = apart(flat, batch.shapes, batch.shape)
            if not batch.plain:
                like = [self._leaves[i] for i in batch.indices]
                parts = [_like(leaf, part) for leaf, part in zip(like, parts, strict=True)]
            made.update(zip(batch.indices, parts, strict=True))
        return [made[i] for i in range(len(self._leaves))]


def _each(flat: FlatTree, function: Callable[[Any], Any], indices: Sequence[int]) -> list[Any]:
    """A function of each leaf; its error names the leaf."""
    try:
        return [function(flat.leaves[index]) for index in indices]
    except CollectiveError:
        for index in indices:
            try:
                function(flat.leaves[index])
            except CollectiveError as error:
                raise CollectiveError(f"{flat.paths[index]}: {error}") from None
        raise


def _signatures(flat: FlatTree) -> tuple[Signature, ...]:
    """What must be equal in each leaf on all ranks: hashable, and quick to make."""
    import numpy as np
    import torch

    if set(map(type, flat.leaves)) == {torch.Tensor} and not any(map(REQUIRES_GRAD, flat.leaves)):
        return tuple(map(FACTS, flat.leaves))

    def signature(leaf: Any) -> Signature:
        if isinstance(leaf, torch.Tensor):
            if leaf.requires_grad and (why := why_in_graph(leaf)):
                raise CollectiveError(why)
            return FACTS(leaf)
        if isinstance(leaf, np.ndarray):
            return type(leaf), leaf.dtype, leaf.shape
        if type(leaf) is float or scalars.is_number(leaf):
            return NUMBER
        kind = shown(leaf)
        raise CollectiveError(
            f"{kind} is neither a number, an array, a tensor, nor a tree of these"
        )

    return tuple(_each(flat, signature, range(len(flat.leaves))))


def _why_no_leaf(signature: Signature, op: str) -> str | None:
    if signature == NUMBER:
        return None
    if not _is_tensors(signature):
        return _why_no_array(signature[1], signature[0], op)
    kind, dtype, _, layout, device = signature
    why = why_in_parts(kind) or why_no_block(layout, device.type)
    return why or why_not_reduced(dtype, device.type, op)


def _why_no_array(dtype: Any, kind: type, op: str) -> str | None:
    """Why an array cannot be reduced; None if it can. Torch is asked with an empty one."""
    import numpy as np
    import torch

    if kind not in (np.ndarray, np.memmap):
        return f"a {kind.__name__} is more than an array; pass np.asarray(it)"
    try:
        carried = torch.from_numpy(np.empty(0, dtype=_carried_as(dtype, op)))
    except TypeError as error:
        return f"an array of {dtype}: {error}"
    return why_not_reduced(carried.dtype, "cpu", op)


def _told(signature: Signature) -> str:
    """A leaf in words: its Python type may differ between ranks, and its device's number."""
    if signature == NUMBER:
        return "number"
    _, dtype, shape, *place = signature
    if not place:
        return f"array {dtype.name}{list(shape)}"
    where = "" if place[1].type == "cpu" else f" on {place[1].type}"
    return f"tensor {dtype}{list(shape)}{where}"


def _travelling(leaf: Any, op: str) -> torch.Tensor:
    """A leaf as a plain tensor, which is only read."""
    import numpy as np
    import torch

    if type(leaf) is torch.Tensor:
        return leaf
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().as_subclass(torch.Tensor)
    return torch.from_numpy(np.array(leaf, dtype=_carried_as(leaf.dtype, op), order="C"))


def _carried_as(dtype: Any, op: str) -> Any:
    """Booleans are counted, and a mean of integers is a float; in this machine's byte order."""
    import numpy as np

    if op == "mean" and dtype.kind in "biu":
        return np.float64
    if dtype.kind == "b":
        return np.uint8 if op in ("min", "max", *BITWISE) else np.int64
    return dtype.newbyteorder("=")


def _like(leaf: Any, part: torch.Tensor) -> Any:
    """A reduced tensor as the kind of thing that the leaf is."""
    import torch

    if type(leaf) is torch.Tensor:
        return part
    if isinstance(leaf, torch.Tensor):
        return part.as_subclass(type(leaf.detach()))
    array = part.numpy().copy()
    return array.astype(bool) if leaf.dtype == bool and array.dtype == "uint8" else array


def _cut(body: bytes, sent: Sequence[torch.Tensor]) -> tuple[list[bytes], bytes]:
    """The flat tensors' bytes, and the numbers that follow them."""
    raws, at = [], 0
    for flat in sent:
        raws.append(body[at : at + flat.nbytes])
        at += flat.nbytes
    return raws, body[at:]
