"""What each rank gives to a step: computed here, from the step's seed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from chaos_steps import FEW, MOVED, SIZES, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NORM = ("weight", "bias", "running_mean", "running_var")
"""The tensors of a batch norm that are of floats."""

RAGGED = (
    "all_gather",
    "gather",
    "gather_objects",
    "all_gather_objects",
    "send",
    "autograd.all_gather",
)
"""Calls in which each rank's data may have a size of their own."""


def given(step: Step, rank: int, count: int) -> Any:
    """What a rank gives, in a group of so many ranks."""
    chance, special = _chance(step, rank), GIVEN.get(step.call)
    if special:
        return special(step, rank, count)
    if step.way == "one":
        return _made("tensor", step, chance, step.size % 1000 + 1)
    if step.call == "agree":
        return bool(chance.randint(2))
    ragged = 3 * rank * (step.call in RAGGED)
    return _moved(step, chance, step.size + ragged)


def _chance(step: Step, rank: int, to: int = 0) -> np.random.RandomState:
    """Where a rank's data come from; those for one other rank from another place."""
    return np.random.RandomState((step.seed + 7919 * rank + 104729 * to) % 2**32)


def _moved(step: Step, chance: np.random.RandomState, size: int) -> Any:
    """Data of the step's kind; tensors of any bits, where they are moved as they are."""
    if step.call in MOVED and step.kind == "tensor":
        return _bits(step, chance, size)
    return _made(step.kind, step, chance, size)


def _reduced_parts(step: Step, rank: int, count: int) -> Any:
    """A tensor for each rank, of sizes that are the same on all."""
    chance = _chance(step, rank)
    if step.way == "one":
        return _made("tensor", step, chance, step.size % 1000 + 1)
    return [_made("tensor", step, chance, step.size % 1000 + i) for i in range(count)]


def _scattered(step: Step, rank: int, count: int) -> list[Any]:
    """An object for each rank."""
    chance, size = _chance(step, rank), _share(step, count)
    return [_made(step.kind, step, chance, size + i) for i in range(count)]


def _swapped(step: Step, rank: int, count: int) -> Any:
    """A part for each rank, all of different sizes, or one tensor that is split."""
    if step.way == "one":
        return _bits(step, _chance(step, rank), step.size % 1000 + 3 * rank)
    return [swapped_part(step, rank, to, count) for to in range(count)]


def swapped_part(step: Step, rank: int, to: int, count: int) -> Any:
    """What a rank gives to the member at one place."""
    if step.way == "one":
        return _swapped(step, rank, count).tensor_split(count)[to]
    return _moved(step, _chance(step, rank, 1 + to), _share(step, count) + 3 * to + rank)


def _share(step: Step, count: int) -> int:
    """The size of one rank's part, so that those of many ranks have room in memory."""
    return min(step.size, FEW**2 * SIZES[-1] // count**2)


def _module(step: Step, rank: int, _: int) -> dict[str, torch.Tensor]:
    """The tensors of a module: parameters and buffers by their names."""
    chance = _chance(step, rank)
    names = ("weight", "table", *(f"norm.{name}" for name in NORM))
    tensors = {name: _made("tensor", step, chance, step.size) for name in names}
    return {**tensors, "norm.num_batches_tracked": torch.tensor(int(chance.randint(100)))}


def _alike(step: Step, _: int, __: int) -> Any:
    """The same on all ranks."""
    return _moved(step, _chance(step, 0), step.size)


def _samples(step: Step, _: int, count: int) -> tuple[Any, list[list[int]]]:
    """The samples of a data set, and which of them are whose, in no order and of any numbers."""
    chance = _chance(step, 0)
    size = step.size if step.kind in ("tensor", "array") else step.size % 1000
    indices = chance.permutation(size)
    cuts = np.sort(chance.randint(0, size + 1, count - 1))
    whose = [list(map(int, some)) for some in np.split(indices, cuts)]
    return _data_set(step.kind, step, chance, size), whose


def _data_set(kind: str, step: Step, chance: np.random.RandomState, size: int) -> Any:
    if kind == "dict":
        kinds = ("tensor", "array", "list")
        return {kind: _data_set(kind, step, chance, size) for kind in kinds}
    if kind == "list":
        numbers = map(int, chance.randint(-50, 50, size=size))
        return [{"number": one, "text": "é" * one} if one % 2 else one for one in numbers]
    return _made(kind, step, chance, size)


def taken(samples: Any, places: Sequence[int]) -> Any:
    """The samples at these places."""
    if isinstance(samples, dict):
        return {key: taken(some, places) for key, some in samples.items()}
    if isinstance(samples, list):
        return [samples[place] for place in places]
    return samples[np.array(places, dtype=np.int64)]


def _updates(step: Step, rank: int, _: int) -> list[dict[str, list[float]]]:
    """What a rank's meters are told before each of two synchronisations; names may differ."""
    chance = _chance(step, rank)
    names = ("loss", f"of every second, {rank % 2}", f"of {rank}")
    return [
        {name: (chance.randint(-50, 50, size=chance.randint(4)) / 4).tolist() for name in names}
        for _ in range(2)
    ]


def weight(step: Step, rank: int, of: int, size: int) -> torch.Tensor:
    """By what a rank multiplies another's data in its loss; it is the gradient of those."""
    made: torch.Tensor = _made("tensor", step, _chance(step, rank, 1 + of), size)
    return made


GIVEN: dict[str, Callable[[Step, int, int], Any]] = {
    "reduce_scatter": _reduced_parts,
    "scatter_objects": _scattered,
    "all_to_all": _swapped,
    "sync_module": _module,
    "average_buffers": _module,
    "check_same": _alike,
    "gather_shards": _samples,
    "synchronize_between_processes": _updates,
}
"""What is given to calls that take another thing than data of the step's kind."""


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


def arrays_in(data: Any) -> list[Any]:
    """The tensors and arrays of a tree."""
    if isinstance(data, dict):
        return arrays_in(list(data.values()))
    if isinstance(data, list):
        return [array for one in data for array in arrays_in(one)]
    return [data] if isinstance(data, (torch.Tensor, np.ndarray)) else []
