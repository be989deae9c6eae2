"""Reducing Python numbers and numpy scalars: exactly, in Python, the same on every rank."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIXTY_FOUR_BITS = range(-(2**63), 2**64)


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a Python number or a numpy scalar."""
    import numpy as np

    return isinstance(leaf, (numbers.Number, np.bool_))


def encode(op: str, number: Any) -> list[Any]:
    """A number as JSON: the name of its numpy type ("" for Python's own), and its value.

    Raises:
        CollectiveError: it is no number of 64 bits, or has no order where one is needed.
    """
    dtype = getattr(number, "dtype", None)
    name = "" if dtype is None else dtype.name
    plain = number if dtype is None else number.item()
    if isinstance(plain, complex) and op not in ("min", "max"):
        return [name, [plain.real, plain.imag]]
    if _has_64_bits(plain) and not name.startswith("timedelta"):
        return [name, plain]
    kind = type(number).__name__
    raise CollectiveError(f"{number!r} ({kind}): there is no {op} of such numbers in 64 bits")


def _has_64_bits(plain: Any) -> bool:
    return isinstance(plain, float) or (isinstance(plain, int) and int(plain) in SIXTY_FOUR_BITS)


def reduce_numbers(op: str, encoded: Sequence[Sequence[Any]], mine: int) -> Any:
    """Reduce one leaf's numbers, from all ranks: the same value, or error, on every rank.

    An integer on one rank and a float on another make a float on all; a mean is a float. A
    numpy scalar makes a numpy scalar, of its own type unless the result is of another kind.

    Args:
        op: "sum", "mean", "min", "max" or "prod".
        encoded: the numbers, in the order of the ranks.
        mine: which of them is this rank's, whose type the result has.

    Raises:
        CollectiveError: the result does not fit in 64 bits, or not in a rank's numpy type.
    """
    names = [name for name, _ in encoded]
    values = [complex(*value) if isinstance(value, list) else value for _, value in encoded]
    try:
        result = _REDUCE[op](_of_one_type(values))
        typed = {name: _typed(name, result) for name in names}
    except OverflowError as error:
        raise CollectiveError(f"the {op} of {_some(values)} {error}; pass floats") from error
    return typed[names[mine]]


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return shown if len(values) <= 8 else f"{shown}, ... ({len(values)} numbers)"


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    if all(isinstance(value, bool) for value in values):
        return values
    widest = type(sum(type(value)() for value in values))
    return [widest(value) for value in values]


def _sum(values: Sequence[Any]) -> Any:
    if isinstance(values[0], complex):
        return complex(_sum([v.real for v in values]), _sum([v.imag for v in values]))
    if isinstance(values[0], float):
        try:
            # Correct to the last bit, whatever the order of the ranks and Python's version.
            return math.fsum(values)
        except (OverflowError, ValueError):  # infinities
            return sum(values)
    return sum(values)


def _mean(values: Sequence[Any]) -> Any:
    return _sum(values) / len(values)


def _extreme(pick: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """The least or greatest; NaN if there is one, wherever it stands."""

    def picked(values: Sequence[Any]) -> Any:
        return math.nan if any(map(math.isnan, values)) else pick(values)

    return picked


_REDUCE: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": _sum,
    "mean": _mean,
    "min": _extreme(min),
    "max": _extreme(max),
    "prod": math.prod,
}


def _typed(name: str, result: Any) -> Any:
    """A result as this numpy type, or as numpy's type for results of this kind."""
    if isinstance(result, int) and int(result) not in SIXTY_FOUR_BITS:
        raise OverflowError(f"is {result}, which does not fit in 64 bits")
    if not name:
        return result
    import numpy as np

    dtype = np.dtype(name)
    if type(result) is not type(dtype.type(0).item()):
        return np.asarray(result)[()]
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= result <= np.iinfo(dtype).max:
        raise OverflowError(f"is {result}, which does not fit in {name}")
    with np.errstate(over="ignore"):
        return dtype.type(result)
