"""Reducing Python numbers and numpy scalars: exactly, in Python, the same on every rank."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIXTY_FOUR_BITS = range(-(2**63), 2**64)

_REDUCE: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": sum,
    "mean": lambda values: sum(values) / len(values),
    "min": min,
    "max": max,
    "prod": math.prod,
}
_PYTHON_TYPE = {"b": bool, "i": int, "u": int, "f": float, "c": complex}


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a Python number or a numpy scalar."""
    return isinstance(leaf, numbers.Number) or type(leaf).__name__ == "bool_"


def encode(op: str, number: Any) -> Any:
    """A number as JSON; a complex one as a pair of floats.

    Raises:
        CollectiveError: it is no number of 64 bits, or has no order where one is needed.
    """
    plain = number.item() if hasattr(number, "item") else number
    if isinstance(plain, complex) and op not in ("min", "max"):
        return [plain.real, plain.imag]
    if isinstance(plain, float) or (isinstance(plain, int) and int(plain) in SIXTY_FOUR_BITS):
        return plain
    raise CollectiveError(f"no {op} of {number!r} ({type(number).__name__}) in 64 bits")


def reduce_numbers(op: str, encoded: Sequence[Any], like: Any) -> Any:
    """Reduce one leaf's numbers, from all ranks, in the order of the ranks.

    An integer on one rank and a float on another make a float on all; a mean is a float. A
    numpy scalar makes a numpy scalar, of its own type unless the result is of another kind.

    Raises:
        CollectiveError: the result does not fit in 64 bits, or not in the numpy type.
    """
    values = [complex(*value) if isinstance(value, list) else value for value in encoded]
    try:
        return _like(like, _reduce(op, values))
    except OverflowError as error:
        raise CollectiveError(f"the {op} of {values} does not fit: {error}") from error


def _reduce(op: str, values: Sequence[Any]) -> Any:
    if op in ("min", "max") and any(value != value for value in values):  # noqa: PLR0124 - NaN
        return math.nan
    result = _REDUCE[op](values)
    widest = type(sum(type(value)() for value in values))
    if widest in (float, complex):
        return widest(result)
    if isinstance(result, int) and int(result) not in SIXTY_FOUR_BITS:
        raise OverflowError("more than 64 bits")
    return result


def _like(like: Any, result: Any) -> Any:
    if not hasattr(like, "dtype"):
        return result
    import numpy as np

    same_kind = type(result) is _PYTHON_TYPE.get(like.dtype.kind)
    return like.dtype.type(result) if same_kind else np.asarray(result)[()]
