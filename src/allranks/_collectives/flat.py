"""Many tensors in one flat one, and apart again: 200 metrics are one tensor on their way."""

from __future__ import annotations

import math
from functools import reduce
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._collectives.arguments import BITWISE
from allranks._transport.tensor_bytes import from_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

DTYPE = attrgetter("dtype")


def stacked(leaves: Sequence[Any]) -> torch.Tensor | None:
    """Plain CPU tensors of one shape and dtype, in one new tensor; None for any other leaves.

    Torch looks at shapes, devices, layouts and gradients faster than we could ask for them.
    """
    import torch

    if set(map(type, leaves)) != {torch.Tensor} or len(set(map(DTYPE, leaves))) > 1:
        return None
    try:
        rows = torch.stack(list(leaves))
    except RuntimeError:
        return None
    dense = rows.is_cpu and rows.layout is torch.strided
    return rows if dense and not rows.requires_grad else None


def join(tensors: Sequence[torch.Tensor], shape: Sequence[int] | None) -> torch.Tensor:
    """Tensors of one dtype, in one new flat tensor.

    Args:
        tensors: what is joined.
        shape: of each, if it is the same.
    """
    import torch

    with torch.no_grad():
        if shape is not None:
            return torch.stack(list(tensors)).view(-1)
        return torch.cat([tensor.reshape(-1) for tensor in tensors])


def apart(
    flat: torch.Tensor, shapes: Sequence[Sequence[int]], shape: Sequence[int] | None
) -> Sequence[torch.Tensor]:
    """New tensors, as the ones that were joined in a flat one.

    Args:
        flat: what they were joined in.
        shapes: of each.
        shape: of each, if it is the same.
    """
    import torch

    parts: Any
    if shape is not None:
        rows = flat.view(len(shapes), *shape)
        parts = torch.unbind_copy(rows)  # type: ignore[func-returns-value]  # a tuple
        return list(parts)
    sizes = [math.prod(shape) for shape in shapes]
    parts = torch.split_with_sizes_copy(flat, sizes)  # type: ignore[func-returns-value]  # a tuple
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class ResultMemory(NamedTuple):
    """Memory for results of few bytes, with the tensors that lie in it.

    Made while data are under way: 200 tensors take as long to make as a header takes to come.
    Unlike torch's views of one tensor, autograd lets each be changed in place.

    Attributes:
        memory: all of it, to be filled.
        parts: the tensors.
    """

    memory: memoryview
    parts: list[torch.Tensor]

    @classmethod
    def like(cls, rows: torch.Tensor) -> ResultMemory:
        """For tensors as the rows of this one, of a dtype that numpy knows."""
        import numpy as np
        import torch

        array: Any = np.empty_like(rows.numpy())
        parts = [torch.from_numpy(array[i, ...]) for i in range(len(array))]
        return cls(memoryview(array.reshape(-1).view(np.uint8)), parts)


def elementwise(op: str) -> Callable[..., torch.Tensor]:
    """What combines two tensors."""
    import torch

    by_op: dict[str, Callable[..., torch.Tensor]] = {
        "min": torch.minimum,
        "max": torch.maximum,
        "prod": torch.mul,
        "band": torch.bitwise_and,
        "bor": torch.bitwise_or,
        "bxor": torch.bitwise_xor,
    }
    return by_op.get(op, torch.add)


def folded(column: Sequence[bytes], dtype: torch.dtype, op: str, ranks: int) -> torch.Tensor:
    """The tensors of so many ranks, some of them perhaps reduced before, reduced to one."""
    rows = from_bytes(b"".join(column), dtype).view(len(column), -1)
    if op in ("min", "max"):
        return rows.amin(0) if op == "min" else rows.amax(0)
    if op == "prod":
        return rows.prod(0, dtype=dtype)
    if op in BITWISE:
        return reduce(elementwise(op), rows.unbind())
    total = _summed(rows)
    return total.div_(ranks) if op == "mean" else total


def _summed(rows: torch.Tensor) -> torch.Tensor:
    """The sum of rows; torch begins its own at 0.0, which would be the sum of -0.0, too."""
    import torch

    total = rows.sum(0, dtype=rows.dtype)
    if (not rows.dtype.is_floating_point and not rows.is_complex()) or bool(total.all()):
        return total
    parts = torch.view_as_real(rows) if rows.is_complex() else rows
    sums = torch.view_as_real(total) if rows.is_complex() else total
    sums[(sums == 0) & parts.signbit().all(0)] = -0.0
    return total
