"""Results of samples, taken apart: dicts and tuples of tensors, arrays and lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._transport.tensor_bytes import as_bytes, contiguous, why_not_dense
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

TENSOR, ARRAY, LIST = "tensor", "array", "list"


@dataclass(frozen=True)
class LeafKind:
    """What must be equal in a leaf on all ranks that have samples.

    Attributes:
        kind: TENSOR, ARRAY or LIST.
        dtype: torch's or numpy's; None of a list.
        trailing: the shape of one sample.
    """

    kind: str
    dtype: Any = None
    trailing: tuple[int, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether it is an array of numpy's str or bytes, whose dtypes have a width."""
        return self.kind == ARRAY and self.dtype.kind in "SU"

    def __repr__(self) -> str:
        if self.kind == LIST:
            return LIST
        shape = ", ".join(map(str, ("n", *self.trailing)))
        return f"{self.kind} of {self.dtype} [{shape}]"


class Samples(NamedTuple):
    """What one rank has.

    Attributes:
        template: dicts and tuples as they were given, with a LeafKind for each leaf.
        leaves: by their paths; tensors on the CPU.
        devices: where each tensor was.
        number: of samples.
    """

    template: Any
    leaves: dict[str, Any]
    devices: dict[str, Any]
    number: int


def map_leaves(function: Callable[[str, Any], Any], tree: Any, path: str = "values") -> Any:
    """The same dicts and tuples, with a function's result for each leaf and its path."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, child, f"{path}[{key!r}]") for key, child in tree.items()}
    if isinstance(tree, tuple):
        made = [map_leaves(function, child, f"{path}[{i}]") for i, child in enumerate(tree)]
        make: Any = getattr(type(tree), "_make", tuple)  # That of a namedtuple.
        return make(made)
    return function(path, tree)


def with_widest_texts(templates: Sequence[Any]) -> list[Any]:
    """Templates that agree on the width of arrays of text: at each place the widest has it.

    numpy makes an array of texts as wide as its longest one, so that ranks seldom have the same.
    """
    import numpy as np

    widest: dict[tuple[str, str], Any] = {}

    def look(path: str, leaf: LeafKind) -> None:
        if leaf.is_text:
            place = path, leaf.dtype.kind
            widest[place] = np.promote_types(widest.get(place, leaf.dtype), leaf.dtype)

    def widened(path: str, leaf: LeafKind) -> LeafKind:
        return replace(leaf, dtype=widest[path, leaf.dtype.kind]) if leaf.is_text else leaf

    for template in templates:
        map_leaves(look, template)
    return [map_leaves(widened, template) for template in templates]


def taken_apart(values: Any) -> Samples:
    """A rank's values as leaves, ready to travel.

    Raises:
        CollectiveError: a leaf is none, or the leaves differ in their numbers of samples.
    """
    leaves: dict[str, Any] = {}
    devices: dict[str, Any] = {}

    def take(path: str, leaf: Any) -> LeafKind:
        if path in leaves:
            raise CollectiveError(f"two keys of a dict print alike: {path}")
        kind, leaves[path] = _told(path, leaf)
        if kind.kind == TENSOR:
            devices[path] = leaf.device
        return kind

    template = map_leaves(take, values)
    counts = {path: len(leaf) for path, leaf in leaves.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{path}: {count}" for path, count in list(counts.items())[:8])
        raise CollectiveError(f"the values differ in their numbers of samples: {told}")
    return Samples(template, leaves, devices, max(counts.values(), default=0))


def _told(path: str, leaf: Any) -> tuple[LeafKind, Any]:
    """A leaf's kind, and the leaf as it travels."""
    import numpy as np
    import torch

    if isinstance(leaf, list):
        return LeafKind(LIST), leaf
    if isinstance(leaf, torch.Tensor):
        if why := why_not_dense(leaf):
            raise CollectiveError(f"{path}: {why}")
        leaf = contiguous(leaf.detach().as_subclass(torch.Tensor).cpu())
    elif isinstance(leaf, np.ndarray) and not isinstance(leaf, np.ma.MaskedArray):
        leaf = np.asarray(leaf)
    else:
        raise CollectiveError(
            f"{path}: a {type(leaf).__name__} is no tensor, numpy array or list with one entry "
            "for each sample, nor a dict or tuple of these"
        )
    if not leaf.ndim:
        raise CollectiveError(f"{path} has no dimensions; the first one is that of the samples")
    kind = TENSOR if isinstance(leaf, torch.Tensor) else ARRAY
    return LeafKind(kind, leaf.dtype, tuple(leaf.shape[1:])), leaf


def joined(kind: LeafKind, parts: Iterable[tuple[NDArray[np.int64], Any]], count: int) -> Any:
    """One leaf of all samples.

    Args:
        kind: the leaf's.
        parts: of each rank that has samples, where they belong and its leaf.
        count: the number of all samples.
    """
    import numpy as np
    import torch

    if kind.kind == LIST:
        items: list[Any] = [None] * count
        for places, part in parts:
            for place, item in zip(places.tolist(), part, strict=True):
                items[place] = item
        return items
    if kind.kind == ARRAY:
        array: NDArray[Any] = np.empty((count, *kind.trailing), kind.dtype)
        for places, part in parts:
            array[places] = part
        return array
    # As bytes, since torch puts tensors of some dtypes nowhere by index (uint16 in 2.13).
    size = torch.Size(kind.trailing).numel() * kind.dtype.itemsize
    raw: NDArray[np.uint8] = np.empty((count, size), np.uint8)
    for places, part in parts:
        raw[places] = as_bytes(part).numpy().reshape(len(part), size)
    flat = torch.from_numpy(raw.reshape(-1))
    return flat.view(kind.dtype).view(count, *kind.trailing)
