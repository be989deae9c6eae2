"""Reduced numbers: exact, of one type on all ranks, or an error on all."""

from __future__ import annotations

import math
import operator
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allranks._collectives.scalars import PackedScalars, encode, is_number, reduce_packed
from allranks.errors import CollectiveError

INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-1000, 1000)
FLOATS = st.floats(-1e300, 1e300)


class Level(IntEnum):
    LOW = 1


def reduced(op, *values, mine=0):
    """What rank ``mine`` gets, when the ranks give these values, which travel as bytes."""
    packed = [PackedScalars.of([encode(op, value)]) for value in values]
    [result] = packed[mine].results(reduce_packed(op, [one.body for one in packed], 1, len(packed)))
    return result


def identical(one, other):
    return type(one) is type(other) and (one == other or (one != one and other != other))


@settings(deadline=None)
@given(st.lists(INT64, min_size=1, max_size=6))
def test_integers_are_exact(values):
    """As in Python, whose integers know no limit; a mean is rounded once."""
    assert identical(reduced("min", *values), min(values))
    assert identical(reduced("max", *values), max(values))
    assert identical(reduced("mean", *values), float(Fraction(sum(values), len(values))))
    if -(2**63) <= sum(values) < 2**64:
        assert identical(reduced("sum", *values), sum(values))
    else:
        with pytest.raises(CollectiveError, match="does not fit in 64 bits; pass floats"):
            reduced("sum", *values)


@settings(deadline=None)
@given(st.lists(SMALL, min_size=1, max_size=6))
def test_products_are_exact(values):
    """As in Python."""
    assert identical(reduced("prod", *values), reduce(operator.mul, values))


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=6), st.randoms())
def test_floats_are_correct_to_the_last_bit(values, random):
    """The sum is the exact one, rounded once, whatever the order of the ranks."""
    exact = float(sum(map(Fraction, values)))
    assert reduced("sum", *values) == exact
    assert reduced("mean", *values) == exact / len(values)
    assert reduced("max", *values) == max(values)
    assert reduced("min", *values) == min(values)
    random.shuffle(values)
    assert reduced("sum", *values) == exact


@settings(deadline=None)
@given(st.lists(SMALL | FLOATS | st.booleans(), min_size=1, max_size=6), st.data())
def test_all_ranks_get_one_type_and_value(values, data):
    """Float if any is a float, else integer; booleans have a least and a greatest."""
    op = data.draw(st.sampled_from(["sum", "mean", "min", "max"]))
    results = [reduced(op, *values, mine=rank) for rank in range(len(values))]
    shuffled = data.draw(st.permutations(values))
    assert all(identical(one, results[0]) for one in results)
    assert type(reduced(op, *shuffled)) is type(results[0])
    any_float = op == "mean" or any(isinstance(value, float) for value in values)
    all_bool = op in ("min", "max") and all(isinstance(value, bool) for value in values)
    assert type(results[0]) is (float if any_float else bool if all_bool else int)


@pytest.mark.parametrize(
    ("op", "values", "expected"),
    [
        ("sum", [0.1, 0.1], 0.2),
        ("sum", [0.1] * 10, 1.0),
        ("sum", [2**53, 1], 2**53 + 1),
        ("sum", [2**62, 2**62], 2**63),
        ("sum", [2**64 - 1, 0], 2**64 - 1),
        ("sum", [-(2**63), 0], -(2**63)),
        ("sum", [0, 0.5], 0.5),
        ("sum", [True, True], 2),
        ("prod", [True, True], 1),
        ("max", [True, False], True),
        ("max", [True, 1], 1),
        ("min", [1, True], 1),
        ("mean", [1, 2], 1.5),
        ("mean", [2, 2], 2.0),
        ("mean", [True, False], 0.5),
        ("sum", [math.inf, 1.0], math.inf),
        ("sum", [math.inf, -math.inf], math.nan),
        ("sum", [1e308, 1e308], math.inf),
        ("prod", [1e300, 1e300], math.inf),
        ("prod", [2**63, 2**63, 0.5], 2.0**125),
        ("max", [math.nan, 1.0], math.nan),
        ("min", [1.0, math.nan], math.nan),
        ("max", [1, math.nan], math.nan),
        ("sum", [1 + 2j, 1], 2 + 2j),
        ("sum", [1.0, 1j], 1 + 1j),
        ("prod", [0.5, 2], 1.0),
        ("mean", [1 + 2j, 1], 1 + 1j),
        ("prod", [1j, 1j], -1 + 0j),
        ("sum", [Level.LOW, Level.LOW], 2),
    ],
)
def test_python_numbers(op, values, expected):
    """Values and types worth writing down; on one rank the same type as on several."""
    assert identical(reduced(op, *values), expected)
    assert identical(reduced(op, *values, mine=len(values) - 1), expected)


@pytest.mark.parametrize(
    ("op", "values", "expected"),
    [
        ("sum", [np.int64(1), np.int64(2)], np.int64(3)),
        ("sum", [np.int32(1), 2], np.int32(3)),
        ("sum", [np.uint8(1), 0.5], np.float64(1.5)),
        ("mean", [np.int16(1), np.int16(2)], np.float64(1.5)),
        ("sum", [np.float32(0.1), np.float32(0.1)], np.float32(0.2)),
        ("sum", [np.float16(6e4), np.float16(6e4)], np.float16(np.inf)),
        ("sum", [np.float64(0.1), np.float64(0.1)], np.float64(0.2)),
        ("sum", [np.bool_(1), np.bool_(1)], np.int64(2)),
        ("max", [np.bool_(0), np.bool_(1)], np.bool_(1)),
        ("mean", [np.bool_(0), np.bool_(1)], np.float64(0.5)),
        ("sum", [np.complex64(1j), np.complex64(1)], np.complex64(1 + 1j)),
        ("sum", [np.uint64(2**63), np.uint64(1)], np.uint64(2**63 + 1)),
        ("max", [np.float32("nan"), np.float32(1)], np.float32("nan")),
    ],
)
def test_numpy_scalars(op, values, expected):
    """They come back as numpy scalars, of their own type wherever it can hold the result."""
    assert identical(reduced(op, *values), expected)
    assert type(reduced(op, values[0])) is type(expected) or not isinstance(values[1], np.generic)


def test_each_rank_gets_its_own_type():
    """A Python number on one rank and a numpy scalar on another."""
    assert identical(reduced("sum", 1, np.int32(2), mine=0), 3)
    assert identical(reduced("sum", 1, np.int32(2), mine=1), np.int32(3))


@pytest.mark.parametrize("mine", [0, 1])
def test_an_overflow_in_one_ranks_type_is_an_error_on_all(mine):
    """Else one rank would fail, and the other would wait for it in its next call."""
    with pytest.raises(CollectiveError) as caught:
        reduced("sum", 100, np.int8(100), mine=mine)
    told = "the sum of 100, 100 is 200, which does not fit in int8; pass floats"
    assert str(caught.value) == told


def test_an_overflow_of_many_ranks_stays_readable():
    """Only the first values are told."""
    with pytest.raises(CollectiveError, match=r", \.\.\. \(1000 numbers\) is"):
        reduced("sum", *[2**63] * 1000)


@pytest.mark.parametrize(
    ("op", "number"),
    [
        ("sum", 2**64),
        ("sum", -(2**63) - 1),
        ("max", 1j),
        ("min", np.complex64(1)),
        ("sum", Fraction(1, 2)),
        ("sum", Decimal(1)),
        ("sum", np.longdouble(1)),
        ("sum", np.timedelta64(1, "ns")),
        ("sum", np.timedelta64(1, "D")),
    ],
    ids=repr,
)
def test_what_64_bits_cannot_hold_is_refused(op, number):
    """The error names the value, its type and the reduction."""
    assert is_number(number)
    with pytest.raises(CollectiveError) as caught:
        encode(op, number)
    assert f"{number!r} ({type(number).__name__}): there is no {op}" in str(caught.value)


def test_what_is_a_number():
    """Python's and numpy's scalars, and nothing else."""
    assert all(map(is_number, [1, True, 1.5, 1j, np.int8(1), np.bool_(1), np.float16(1)]))
    assert not any(map(is_number, ["1", None, [1], np.array(1), b"1", np.str_("1")]))


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("zero", [-0.0, complex(-0.0, -0.0), np.float32(-0.0), np.complex64(-0.0)])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_zeros_keep_their_sign(op, zero, count):
    """A sum is -0.0 only where every part is: IEEE 754, 6.3."""
    assert identical(signs(reduced(op, *[zero] * count)), signs(zero))
    assert signs(reduced(op, zero, *[abs(zero)] * count))[0] == 1


def signs(number):
    parts = (number.real, number.imag) if isinstance(number, (complex, np.complex64)) else (number,)
    return [math.copysign(1, part) for part in parts]


@pytest.mark.parametrize("op", ["sum", "mean", "prod"])
def test_parts_of_a_complex_number_do_not_mix(op):
    assert repr(reduced(op, complex(math.inf, -0.0))) == "(inf-0j)"
    assert repr(reduced("mean", complex(math.inf, 1), complex(math.inf, 2))) == "(inf+1.5j)"
