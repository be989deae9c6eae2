"""Trees of numbers, arrays and tensors: packed to be reduced, and put together again."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from allranks._collectives import scalars, trees
from allranks._collectives.arguments import BITWISE, shown, why_no_such_op
from allranks._collectives.flat import ResultMemory, apart, folded, join, stacked
from allranks._collectives.in_place import (
    reduce_in_place,
    why_in_graph,
    why_not_reduced,
    why_not_reduced_over,
)
from allranks._system.bounded_cache import remembered
from allranks._system.printable import brief_repr
from allranks._transport.group_operations import nothing
from allranks._transport.headers import Header, exchange_and_combine, fits_inline
from allranks._transport.tensor_bytes import from_bytes, to_bytes, why_in_parts, why_no_block
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from allranks._collectives.trees import FlatTree, TreeNode
    from allranks._transport.process_groups import Members

Signature: TypeAlias = "tuple[Any, ...]"

NUMBER: Signature = ()

NO_NUMBERS = scalars.floats([])

FACTS = attrgetter("__class__", "dtype", "shape", "layout", "device")
"""The signature of a tensor."""

REQUIRES_GRAD = attrgetter("requires_grad")


def reduce_float(number: Any, op: str, members: Members) -> Any:
    """The fast path of ``_reduce_tree`` for one Python float."""
    packed = scalars.floats([number])
    header = Header(f"all_reduce({op}) of number", packed.body)
    answer = exchange_and_combine(
        members,
        header,
        lambda bodies: scalars.reduce_packed(op, bodies, 1, members.size),
        fold=lambda bodies: scalars.fold_packed(op, bodies, 1),
    )
    [result] = packed.results(answer)
    return result


def reduce_tree(call: str, data: Any, op: str, members: Members, why: str | None = None) -> Any:
    """Reduce numbers, arrays, tensors and trees of them to new ones. Collective.

    Args:
        call: the call in words.
        data: this rank's.
        op: as ``named_op`` gives it.
        members: who takes part.
        why: why this rank cannot make the call, or None.

    Raises:
        CollectiveError: a rank cannot make the call.
        MismatchError: the ranks made different calls.
    """
    if why:
        _refuse(call, members, f"{call}: {why}")
    try:
        packed = _PackedLeaves(call, data, op)
        packed.refuse_what_cannot_travel(members)
    except (CollectiveError, ValueError) as error:
        _refuse(call, members, f"{call}: {error}")
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        told = f"{type(error).__name__}: {error}"
        _refuse(call, members, f"{call} of a {type(data).__name__}: {told}")
    return _rebuilt(data, packed.exchanged(members), packed.node)


def _refuse(call: str, members: Members, why: str) -> NoReturn:
    exchange_and_combine(members, Header(call, error=why))
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


@remembered(lambda _call, _op, node, _signatures: trees.size(node))
def _planned(
    call: str, op: str, node: TreeNode | None, signatures: Sequence[Signature]
) -> _PackingPlan:
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
    return _PackingPlan(f"{call}({op}) of {told_all}", numbers, batches)


def _batch(indices: Sequence[int], signatures: Sequence[Signature]) -> _FlatBatch:
    import torch

    shapes = tuple(signatures[i][2] for i in indices)
    plain = all(signatures[i][0] is torch.Tensor for i in indices)
    return _FlatBatch(tuple(indices), shapes, shapes[0] if len(set(shapes)) == 1 else None, plain)


@remembered(lambda _call, _op, node, _signature, _count: trees.size(node))
def _planned_alike(
    call: str, op: str, node: TreeNode | None, signature: Signature, count: int
) -> _PackingPlan:
    """The plan for a tree of leaves that are all alike, found sooner."""
    return _planned(call, op, node, (signature,) * count)


def _travels_as(signature: Signature, op: str) -> Any:
    """The dtype and device of the tensor in which a leaf travels; None for a number."""
    if _is_tensors(signature):
        return signature[1], signature[4]
    return _carried_as(signature[1], op) if signature else None


def _is_tensors(signature: Signature) -> bool:
    return len(signature) == 5


class _PackedLeaves:
    """The leaves of a tree, packed to travel: numbers, and one flat tensor for each dtype."""

    def __init__(self, call: str, data: Any, op: str) -> None:
        flat = trees.flatten(data)
        self.node = flat.node
        self._op = op
        self._leaves = flat.leaves
        self._numbers = NO_NUMBERS
        self._rows = stacked(flat.leaves)
        if self._rows is not None:
            self._plan = _planned_alike(
                call, op, flat.node, FACTS(flat.leaves[0]), len(flat.leaves)
            )
            self._flats = [self._rows.view(-1)]
        else:
            self._plan = _planned(call, op, flat.node, _signatures(flat))
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

    def refuse_what_cannot_travel(self, members: Members) -> None:
        """Raise what the backend of a device cannot reduce; of the CPU's, the plan has told."""
        for batch, flat in zip(self._plan.batches, self._flats, strict=True):
            why = None if flat.is_cpu else why_not_reduced_over(members.group, flat, self._op)
            if why:
                paths = list(trees.paths(self.node))
                raise CollectiveError(f"{paths[batch.indices[0]]}: {why}")

    def exchanged(self, members: Members) -> list[Any]:
        """Exchange the leaves, and return the reduced ones.

        All travel in the headers if the flat tensors are small together and on the CPU; otherwise
        each flat tensor is reduced by torch.
        """
        small = fits_inline(sum(flat.nbytes for flat in self._flats))
        inline = small and all(flat.is_cpu for flat in self._flats)
        sent = self._flats if inline else []
        body = b"".join([*map(to_bytes, sent), self._numbers.body])
        rooms: list[ResultMemory] = []
        meanwhile = partial(self._make_room, rooms) if inline else nothing
        answer = exchange_and_combine(
            members,
            Header(self._plan.call, body),
            partial(self._combined, sent, members.size),
            meanwhile,
            partial(self._folded, sent),
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

    def _combined(self, sent: Sequence[torch.Tensor], ranks: int, bodies: list[bytes]) -> bytes:
        """The bodies of all ranks, reduced to one."""
        rows = [_cut(body, sent) for body in bodies]
        numbers = [packed for _, packed in rows]
        if count := len(self._plan.numbers):
            numbers = [scalars.reduce_packed(self._op, numbers, count, ranks)]
        return b"".join([*_reduced_flats(rows, sent, self._op, ranks), numbers[0]])

    def _folded(self, sent: Sequence[torch.Tensor], bodies: list[bytes]) -> list[bytes]:
        """Fewer bodies, of which ``_combined`` makes the same; or those that were given."""
        rows = [_cut(body, sent) for body in bodies]
        numbers = [packed for _, packed in rows]
        if count := len(self._plan.numbers):
            fewer = scalars.fold_packed(self._op, numbers, count)
            if len(fewer) == len(numbers):
                return bodies
            numbers = fewer
        else:
            numbers = numbers[:1]
        op = "sum" if self._op == "mean" else self._op
        first = b"".join(_reduced_flats(rows, sent, op, 1))
        return [first + numbers[0], *(_neutral(sent) + one for one in numbers[1:])]

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


def _reduced_flats(
    rows: Sequence[tuple[list[bytes], bytes]], sent: Sequence[torch.Tensor], op: str, ranks: int
) -> list[bytes]:
    """Each flat tensor of all rows, reduced to one."""
    columns = zip(*(raws for raws, _ in rows), strict=True)
    pairs = zip(columns, sent, strict=True)
    return [to_bytes(folded(column, flat.dtype, op, ranks)) for column, flat in pairs]


def _neutral(sent: Sequence[torch.Tensor]) -> bytes:
    """Flat tensors that change no sum, not even that of zeros."""
    import torch

    def zeros(flat: torch.Tensor) -> torch.Tensor:
        made = torch.zeros_like(flat)
        return -made if flat.dtype.is_floating_point or flat.dtype.is_complex else made

    return b"".join(to_bytes(zeros(flat)) for flat in sent)


def _cut(body: bytes, sent: Sequence[torch.Tensor]) -> tuple[list[bytes], bytes]:
    """The flat tensors' bytes, and the numbers that follow them."""
    raws, at = [], 0
    for flat in sent:
        raws.append(body[at : at + flat.nbytes])
        at += flat.nbytes
    return raws, body[at:]
