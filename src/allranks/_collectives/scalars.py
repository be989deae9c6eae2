"""Reducing Python numbers and numpy scalars: exactly, in Python, the same on every rank."""

from __future__ import annotations

import math
import numbers
import operator
import struct
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._collectives.arguments import BITWISE
from allranks._collectives.exact_sums import fewer_rows
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMES = (
    "",
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""The numpy types of scalars, by their code in a message; "" stands for a number of Python."""

FLOATS, MIXED = b"f", b"m"

SIXTY_FOUR_BITS = range(-(2**63), 2**64)


def is_number(leaf: Any) -> bool:
    """Whether a leaf is a Python number or a numpy scalar."""
    import numpy as np

    return isinstance(leaf, (numbers.Number, np.bool_))


def encode(op: str, number: Any) -> tuple[str, Any]:
    """The name of a number's numpy type ("" for Python's own), and its value as Python's.

    Raises:
        CollectiveError: it is no number of 64 bits, or has no order where one is needed.
    """
    dtype = getattr(number, "dtype", None)
    name = "" if dtype is None else dtype.name
    plain = number if dtype is None else number.item()
    if isinstance(plain, complex) and op not in ("min", "max", *BITWISE):
        return name, complex(plain)
    unfit = name.startswith("timedelta") or (op in BITWISE and isinstance(plain, float))
    if _has_64_bits(plain) and not unfit:
        return name, plain
    kind = type(number).__name__
    raise CollectiveError(f"{number!r} ({kind}): there is no {op} of such numbers in 64 bits")


def _has_64_bits(plain: Any) -> bool:
    return isinstance(plain, float) or (isinstance(plain, int) and int(plain) in SIXTY_FOUR_BITS)


class PackedScalars(NamedTuple):
    """One rank's numbers, on their way.

    Attributes:
        body: as they travel.
        names: each one's numpy type, "" for Python's own.
    """

    body: bytes
    names: Sequence[str]

    @classmethod
    def of(cls, encoded: Sequence[tuple[str, Any]]) -> PackedScalars:
        """Encoded numbers."""
        names = [name for name, _ in encoded]
        return cls(pack(names, [value for _, value in encoded]), names)

    def results(self, reply: bytes) -> list[Any]:
        """What ``reduce_packed`` made of these numbers, each of this rank's type."""
        if reply.startswith(FLOATS) and not any(self.names):
            return list(_unpacked_floats(reply))
        values = unpack(reply, len(self.names))
        return [typed(name, value) for name, (_, value) in zip(self.names, values, strict=True)]


def floats(values: Sequence[float]) -> PackedScalars:
    """Python floats, which need no further word."""
    return PackedScalars(FLOATS + struct.pack(f"<{len(values)}d", *values), ("",) * len(values))


def pack(names: Sequence[str], values: Sequence[Any]) -> bytes:
    """Encoded numbers as bytes: their types, where these are not Python floats, and values."""
    if not any(names) and all(type(value) is float for value in values):
        return floats(values).body
    codes = "".join(map(_code, values))
    flat = [part for value in values for part in _parts(value)]
    types = bytes(map(NAMES.index, names)) + codes.encode()
    return MIXED + types + _layout(codes).pack(*flat)


def unpack(packed: bytes, count: int) -> list[tuple[str, Any]]:
    """The encoded numbers that ``pack`` packed."""
    if packed.startswith(FLOATS):
        return [("", value) for value in _unpacked_floats(packed)]
    names = [NAMES[code] for code in packed[1 : 1 + count]]
    codes = packed[1 + count : 1 + 2 * count].decode()
    flat = iter(_layout(codes).unpack(packed[1 + 2 * count :]))
    values = [complex(next(flat), next(flat)) if c == "D" else next(flat) for c in codes]
    return list(zip(names, values, strict=True))


def _layout(codes: str) -> struct.Struct:
    """Made each time: ``struct.pack`` would keep a hundred of them, 34 bytes for each number."""
    return struct.Struct("<" + codes.replace("D", "dd"))


def _unpacked_floats(packed: bytes) -> Sequence[float]:
    return struct.unpack(f"<{len(packed) // 8}d", packed[1:])


def _code(value: Any) -> str:
    """How a value is packed, as struct names it; D for the two parts of a complex number."""
    if isinstance(value, bool):
        return "?"
    if isinstance(value, int):
        return "q" if value < 2**63 else "Q"
    return "d" if isinstance(value, float) else "D"


def _parts(value: Any) -> tuple[Any, ...]:
    return (value.real, value.imag) if isinstance(value, complex) else (value,)


def reduce_packed(op: str, bodies: Sequence[bytes], count: int, ranks: int) -> bytes:
    """Reduce the numbers of all ranks, packed in the order of the ranks, to packed results.

    An integer on one rank and a float on another make a float; a mean is a float.

    Args:
        op: one of OPS.
        bodies: each rank's numbers, or fewer, as ``fold_packed`` makes them.
        count: how many there are in each.
        ranks: how many ranks there are.

    Raises:
        CollectiveError: a result does not fit in 64 bits, or not in a rank's numpy type.
    """
    if all(body.startswith(FLOATS) for body in bodies):
        columns = list(zip(*map(_unpacked_floats, bodies), strict=True))
        if op == "sum":
            return floats(_summed(columns)).body
        return floats([_reduction(op, ranks)(column) for column in columns]).body
    rows = [unpack(body, count) for body in bodies]
    results = [_reduced(op, column, ranks) for column in zip(*rows, strict=True)]
    return pack([""] * count, results)


def fold_packed(op: str, bodies: list[bytes], count: int) -> list[bytes]:
    """Fewer bodies with the same results, exactly; the same ones where there are none.

    Args:
        op: one of OPS.
        bodies: the numbers of some ranks.
        count: how many there are in each.
    """
    if all(body.startswith(FLOATS) for body in bodies):
        return _fewer_floats(op, bodies)
    types = {body[: 1 + 2 * count] for body in bodies}
    return bodies if len(types) > 1 or op == "prod" else _fewer_mixed(op, bodies, count)


def _fewer_floats(op: str, bodies: list[bytes]) -> list[bytes]:
    if op not in ("sum", "mean"):
        columns = zip(*map(_unpacked_floats, bodies), strict=True)
        return [floats([_REDUCE[op](column) for column in columns]).body]
    import numpy as np

    given = np.frombuffer(b"".join(body[1:] for body in bodies), np.float64)
    return [FLOATS + row.tobytes() for row in fewer_rows(given.reshape(len(bodies), -1))]


def _fewer_mixed(op: str, bodies: list[bytes], count: int) -> list[bytes]:
    """Fewer bodies of numbers of the same types; sums of other than integers and floats stay."""
    rows = [unpack(body, count) for body in bodies]
    names = [name for name, _ in rows[0]]
    columns = [[value for _, value in column] for column in zip(*rows, strict=True)]
    if op not in ("sum", "mean"):
        return [pack(names, [_REDUCE[op](values) for values in columns])]
    if not {type(values[0]) for values in columns} <= {int, float}:
        return bodies
    made = list(zip(*_fewer_in_each(columns), strict=True))
    fit = all(value in SIXTY_FOUR_BITS for value in made[0] if isinstance(value, int))
    return [pack(names, row) for row in made] if fit else bodies


def _fewer_in_each(columns: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Fewer numbers in each column, as many in all, with the same exact sums."""
    import numpy as np

    floats_ = [values for values in columns if isinstance(values[0], float)]
    rows = fewer_rows(np.array(floats_).T) if floats_ else np.empty((1, 0))
    summed = iter(rows.T.tolist())
    zeros = [0] * (len(rows) - 1)
    return [next(summed) if isinstance(v[0], float) else [sum(v), *zeros] for v in columns]


def _summed(columns: Sequence[Sequence[float]]) -> list[float]:
    try:
        return [math.fsum(column) or _zero(column) for column in columns]
    except (OverflowError, ValueError):  # infinities, in one of them
        return list(map(_sum, columns))


def _reduced(op: str, column: Sequence[tuple[str, Any]], ranks: int) -> Any:
    values = [value for _, value in column]
    try:
        result = _reduction(op, ranks)(_of_one_type(values))
        for name in {"", *(name for name, _ in column)}:
            typed(name, result)
    except OverflowError as error:
        raise CollectiveError(f"the {op} of {_some(values)} {error}; pass floats") from error
    return result


def _some(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:8]))
    return shown if len(values) <= 8 else f"{shown}, ... ({len(values)} numbers)"


def _of_one_type(values: Sequence[Any]) -> Sequence[Any]:
    if all(isinstance(value, bool) for value in values):
        return values
    widest = type(sum(type(value)() for value in values))
    return [widest(value) for value in values]


def exact_sum(values: Sequence[float]) -> float:
    """The sum of numbers, rounded once; an integer if all of them are integers."""
    total: float = _sum(_of_one_type(values))
    return total


def _sum(values: Sequence[Any]) -> Any:
    """The sum of numbers of one type."""
    if isinstance(values[0], complex):
        return complex(_sum([v.real for v in values]), _sum([v.imag for v in values]))
    if isinstance(values[0], float):
        try:
            # Correct to the last bit, whatever the order of the ranks and Python's version.
            return math.fsum(values) or _zero(values)
        except (OverflowError, ValueError):  # infinities
            return sum(values)
    return sum(values)


def _zero(values: Sequence[float]) -> float:
    """The zero that is the sum of floats: -0.0 only where all of them are."""
    return -0.0 if all(math.copysign(1.0, value) < 0 for value in values) else 0.0


def _mean(ranks: int, values: Sequence[Any]) -> Any:
    total = _sum(values)
    if isinstance(total, complex):  # Python would divide by a complex number, which mixes parts.
        return complex(total.real / ranks, total.imag / ranks)
    return total / ranks


def _product(values: Sequence[Any]) -> Any:
    return math.prod(values[1:], start=+values[0])


def _extreme(pick: Callable[[Sequence[Any]], Any]) -> Callable[[Sequence[Any]], Any]:
    """The least or greatest; NaN if there is one, wherever it stands."""

    def picked(values: Sequence[Any]) -> Any:
        return math.nan if any(map(math.isnan, values)) else pick(values)

    return picked


def _reduction(op: str, ranks: int) -> Callable[[Sequence[Any]], Any]:
    """What makes one number of those of so many ranks."""
    return partial(_mean, ranks) if op == "mean" else _REDUCE[op]


_REDUCE: dict[str, Callable[[Sequence[Any]], Any]] = {
    "sum": _sum,
    "min": _extreme(min),
    "max": _extreme(max),
    "prod": _product,
    "band": partial(reduce, operator.and_),
    "bor": partial(reduce, operator.or_),
    "bxor": partial(reduce, operator.xor),
}


def typed(name: str, result: Any) -> Any:
    """A result as this numpy type, or as numpy's type for results of this kind.

    A numpy scalar makes a numpy scalar, of its own type unless the result is of another kind.

    Raises:
        OverflowError: it does not fit.
    """
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
