"""How a tensor lies in memory: whether it can be sent as it is, and written in place."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def why_not_dense(tensor: torch.Tensor) -> str | None:
    """Why a tensor is no plain block of numbers; None if it is."""
    why = why_in_parts(type(tensor)) or why_no_block(tensor.layout, tensor.device.type)
    return why or ("a quantized tensor; pass tensor.int_repr()" if tensor.is_quantized else None)


def why_in_parts(kind: type) -> str | None:
    """Why tensors of this class have no numbers of their own: each rank holds a part of them."""
    module = sys.modules.get("torch.distributed.tensor")  # Without it, there is none.
    if module is None or not issubclass(kind, module.DTensor):
        return None
    return (
        "a DTensor, of which each rank holds a part; pass tensor.full_tensor() for all of it, or "
        "tensor.to_local() for this rank's part"
    )


def why_no_block(layout: torch.layout, device: str) -> str | None:
    """Why tensors of this layout, on this type of device, are no blocks of memory."""
    import torch

    if layout != torch.strided:
        return f"a tensor of layout {layout}; pass tensor.to_dense()"
    return "a meta tensor, which holds no data" if device == "meta" else None


def is_contiguous(tensor: torch.Tensor) -> bool:
    """Whether a tensor's values, as they are, lie in memory in their order."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether nothing of a tensor's kind, layout or history is in the way of sending it."""
    import torch

    return (
        type(tensor) is torch.Tensor
        and not tensor.requires_grad
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized)  # Asked here: every small call passes.
        and is_contiguous(tensor)
    )


def contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if it is contiguous, else a copy that is."""
    if is_contiguous(tensor):
        return tensor
    return tensor.resolve_conj().resolve_neg().contiguous()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous tensor's memory as flat bytes, which every backend moves."""
    import torch

    if not tensor.numel():  # which counts as contiguous, whatever its strides
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    # reshape() keeps the odd stride that a single element may have.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def to_bytes(tensor: torch.Tensor) -> bytes:
    """A copy of a contiguous CPU tensor's memory."""
    raw: bytes
    try:
        raw = tensor.numpy().tobytes()
    except TypeError:  # numpy has no such dtype, as bfloat16
        raw = as_bytes(tensor).numpy().tobytes()
    return raw


def from_bytes(raw: bytes, dtype: torch.dtype) -> torch.Tensor:
    """A new flat tensor with these bytes as its memory."""
    import torch

    if not raw:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype)


def flat_bytes(raw: bytes) -> torch.Tensor:
    """A new flat tensor that holds these bytes."""
    import torch

    return from_bytes(raw, torch.uint8)


def flat(buffer: Any) -> torch.Tensor:
    """A buffer as a flat tensor of bytes; only one that is read-only is copied."""
    import torch

    view = memoryview(buffer)
    if not view.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)


def overlaps(tensor: torch.Tensor) -> bool:
    """Whether two elements of a tensor lie at one address."""
    steps = [(s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1]
    reach, nested = 0, True
    for stride, size in sorted(steps):
        nested = nested and stride > reach
        reach += stride * (size - 1)
    if nested or not tensor.numel():
        return False
    # More elements than addresses; else there are few enough to look at each.
    return tensor.numel() > reach + 1 or _some_address_repeats(steps)


def _some_address_repeats(steps: Sequence[tuple[int, int]]) -> bool:
    import torch

    addresses = torch.zeros(1, dtype=torch.int64)
    for stride, size in steps:
        addresses = (addresses[:, None] + torch.arange(size) * stride).reshape(-1)
    return len(set(addresses.tolist())) < addresses.numel()
