"""The least and the greatest of floats, in which a NaN stays one: no backend promises that.

Floats become integers in the same order, with NaN at the end that wins; what comes of them becomes
floats again. It takes one collective, of as many bytes (16-bit floats: twice as many).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._transport.tensor_bytes import contiguous

if TYPE_CHECKING:
    import torch


def needs_keys(dtype: torch.dtype, op: str) -> bool:
    """Whether a reduction is one in which a backend may lose a NaN."""
    return op in ("min", "max") and dtype.is_floating_point


def as_keys(floats: torch.Tensor, op: str) -> torch.Tensor:
    """Integers in the order of these floats, in new memory; a NaN is the least or the greatest."""
    import torch

    wide = contiguous(floats.detach())
    wide = wide.float() if wide.itemsize < 4 else wide
    kind = torch.int64 if wide.itemsize == 8 else torch.int32
    keys = _mirrored(wide.view(kind))
    limits = torch.iinfo(kind)
    return keys.masked_fill_(wide.isnan(), limits.max if op == "max" else limits.min)


def as_floats(keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The floats that ``as_keys`` had made integers of."""
    import torch

    wide = torch.float64 if keys.itemsize == 8 else torch.float32
    return _mirrored(keys).view(wide).to(dtype)


def _mirrored(bits: torch.Tensor) -> torch.Tensor:
    """Negative floats grow with their bits: turned over, they fall. Done twice, it is undone."""
    import torch

    limits = torch.iinfo(bits.dtype)
    return bits ^ ((bits >> limits.bits - 1) & limits.max)
