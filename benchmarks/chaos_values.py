"""What each rank gives to a step, and what it must get: computed here, from the step's seed."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chaos_programs import MOVED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos_programs import Step


def given(step: Step, rank: int, count: int) -> Any:
    """What a rank gives, in a group of so many ranks."""
    chance = np.random.RandomState((step.seed + 7919 * rank) % 2**32)
    if step.way == "one":
        return _made("tensor", step, chance, step.size % 1000 + 1)
    if step.call == "reduce_scatter":
        return [_made("tensor", step, chance, step.size % 1000 + i) for i in range(count)]
    if step.call == "scatter_objects":
        return [_made(step.kind, step, chance, step.size + i) for i in range(count)]
    if step.call == "agree":
        return bool(chance.randint(2))
    if step.call in MOVED and step.kind == "tensor":
        ragged = step.call == "all_gather"
        return _bits(step, chance, step.size + 3 * rank * ragged)
    ragged = step.call in ("all_gather", "gather_objects", "all_gather_objects")
    return _made(step.kind, step, chance, step.size + 3 * rank * ragged)


def _bits(step: Step, chance: np.random.RandomState, size: int) -> torch.Tensor:
    """A tensor of any dtype; of floats, with NaN, infinities and zeros of both signs."""
    odd = np.array([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -3.0])
    array = odd[chance.randint(len(odd), size=size)]
    dtype: torch.dtype = getattr(torch, step.dtype)
    if dtype.is_complex:
        array = array + 1j * chance.randint(-4, 5, size=size)
    if not dtype.is_complex and not dtype.is_floating_point:
        array = chance.randint(-4, 5, size=size)
    return torch.from_numpy(array).to(dtype)


def _made(kind: str, step: Step, chance: np.random.RandomState, size: int) -> Any:
    if kind == "int":
        return int(chance.randint(-50, 50))
    if kind == "float":
        return chance.randint(-50, 50) / 4
    # Small integers: their sums and products are exact in every dtype, in whatever order.
    array = chance.randint(-4, 5, size=size).astype(step.dtype)
    if kind == "array":
        return array
    if kind == "tensor":
        return torch.from_numpy(array)
    parts = [_made(one, step, chance, 3) for one in ("tensor", "array", "int")]
    tree = {
        "loss": _made("float", step, chance, 1),
        "parts": parts,
        "more": torch.from_numpy(array),
    }
    return tree if kind == "tree" else {**tree, "text": "é" * int(chance.randint(50)), "none": None}


def wanted(step: Step, rank: int, members: Sequence[int]) -> Any:
    """What the call must give to a rank; for ``broadcast``, what its tensor must hold."""
    every = [given(step, one, len(members)) for one in members]
    place, src = members.index(rank), step.src % len(members)
    split = [one.tensor_split(len(members)) for one in every] if step.way == "one" else every
    results: dict[str, Callable[[], Any]] = {
        "all_reduce": lambda: combined(step.op, every),
        "all_gather": lambda: torch.cat(every) if step.way == "cat" else every,
        "gather_objects": lambda: every if place == 0 else None,
        "all_gather_objects": lambda: every,
        "broadcast": lambda: every[src],
        "broadcast_object": lambda: every[src],
        "broadcast_object_list": lambda: [every[src], members[src]],
        "scatter_objects": lambda: every[src][place],
        "reduce_scatter": lambda: combined(step.op, [parts[place] for parts in split]),
        "synchronize": lambda: None,
        "agree": lambda: any(every) if step.src % 2 else all(every),
        "on_master": lambda: every[0],
        "master_first": lambda: True,
        "should_stop": lambda: False,
    }
    return results[step.call]()


def combined(op: str, values: Sequence[Any]) -> Any:
    """What a reduction makes of one value from each rank."""
    first = values[0]
    if isinstance(first, dict):
        return {key: combined(op, [value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [combined(op, list(column)) for column in zip(*values, strict=True)]
    if isinstance(first, torch.Tensor):
        return torch.from_numpy(_folded(op, [value.numpy() for value in values]))
    if isinstance(first, np.ndarray):
        return _folded(op, values)
    number: dict[str, Callable[[Any], Any]] = {"min": min, "max": max, "prod": math.prod}
    total = number.get(op, sum)(values)
    return total / len(values) if op == "mean" else total


def _folded(op: str, arrays: Sequence[Any]) -> Any:
    two = {"min": np.minimum, "max": np.maximum, "prod": np.multiply}.get(op, np.add)
    total = arrays[0].copy()
    for other in arrays[1:]:
        two(total, other, out=total)
    return total / len(arrays) if op == "mean" else total


def same(got: Any, expected: Any) -> bool:
    """Whether two results are of one kind and hold the same."""
    if type(got) is not type(expected):
        return False
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same(got[k], expected[k]) for k in expected)
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        alike = got.dtype == expected.dtype and got.shape == expected.shape
        return alike and _bytes(got) == _bytes(expected)
    if isinstance(expected, float):
        return struct.pack("d", got) == struct.pack("d", expected)
    return bool(got == expected)


def _bytes(array: Any) -> bytes:
    """All bits: NaN is NaN, and 0.0 is not -0.0."""
    if isinstance(array, torch.Tensor):
        array = array.clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy()
    return bytes(array.tobytes())
