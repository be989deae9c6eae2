"""Programs of collectives, drawn at random, and what each rank must get from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from programs import Leaf, Step

REDUCED = ["uint8", "int8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]
MOVED = [*REDUCED, *COMPLEX, "bool", "int16"]
OPS = ["sum", "mean", "min", "max", "prod"]


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
layouts = st.sampled_from(["plain", "transposed", "strided"])
seeds = st.integers(0, 1000)


def tensors(dtypes, **more):
    return st.builds(
        Leaf,
        kind=st.just("tensor"),
        dtype=st.sampled_from(dtypes),
        shape=shapes,
        seed=seeds,
        layout=layouts,
        **more,
    )


arrays = st.builds(
    Leaf,
    kind=st.just("array"),
    dtype=st.sampled_from(["int32", "float32", "float64"]),
    shape=shapes,
    seed=seeds,
)
numbers = st.builds(Leaf, kind=st.sampled_from(["int", "float"]), seed=seeds)


def trees(leaves):
    return st.recursive(
        leaves,
        lambda child: (
            st.lists(child, max_size=3)
            | st.lists(child, max_size=3).map(tuple)
            | st.dictionaries(st.text("abc", min_size=1, max_size=2), child, max_size=3)
        ),
        max_leaves=5,
    )


def steps(size: int):
    members = st.sets(st.integers(0, size - 1), min_size=1).map(lambda some: tuple(sorted(some)))
    src = st.integers(0, size - 1)
    floats = [name for name in REDUCED if "float" in name]

    def step(call, data, **more):
        return st.builds(Step, call=st.just(call), data=data, members=members, src=src, **more)

    ops = st.sampled_from(["sum", "min", "max", "prod"])
    whole = trees(tensors(REDUCED) | arrays | numbers)
    broken = trees(tensors(floats) | numbers | arrays)
    part = st.sampled_from(REDUCED).flatmap(
        lambda dtype: st.tuples(*[tensors([dtype])] * size).map(list)
    )
    return st.one_of(
        step("all_reduce", tensors(REDUCED), op=ops),
        step("all_reduce", tensors(floats + COMPLEX), op=st.sampled_from(["sum", "mean"])),
        step("all_reduce", whole, op=ops),
        step("all_reduce", broken, op=st.just("mean")),
        step("all_gather", tensors(MOVED, ragged=st.booleans())),
        step("all_gather", trees(tensors(MOVED, ragged=st.booleans()) | arrays | numbers)),
        step("broadcast", tensors(MOVED)),
        step("reduce_scatter", part, op=st.sampled_from(["sum", "max"])),
        step("gather_objects", trees(tensors(MOVED, ragged=st.booleans()) | arrays | numbers)),
        step("broadcast_object", trees(tensors(MOVED) | arrays)),
        step("scatter_objects", trees(tensors(MOVED) | arrays | numbers)),
    )


def expected(step: Step, rank: int) -> Any:
    """What the model says."""
    if rank not in step.members:
        return None
    given_by = {member: step.given(member) for member in step.members}
    in_order = list(given_by.values())
    if step.call == "all_reduce":
        return reduced(in_order, step.op)
    if step.call == "all_gather":
        return in_order
    if step.call == "reduce_scatter":
        return reduced([parts[step.members.index(rank)] for parts in in_order], step.op)
    if step.call == "gather_objects":
        return in_order if rank == step.members[0] else None
    return given_by[step.sender]


def reduced(values: list[Any], op: str) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {key: reduced([value[key] for value in values], op) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(reduced(list(some), op) for some in zip(*values, strict=True))
    if isinstance(first, np.ndarray):
        return np_reduced(values, op)
    if isinstance(first, torch.Tensor):
        total = {"min": torch.minimum, "max": torch.maximum, "prod": torch.mul}.get(op, torch.add)
        result = first.clone()
        for other in values[1:]:
            result = total(result, other)
        return result / len(values) if op == "mean" else result
    if op == "mean":
        return sum(values) / len(values)
    return {"sum": sum, "min": min, "max": max, "prod": math.prod}[op](values)


def np_reduced(values: list[Any], op: str) -> Any:
    if op == "mean":
        integral = values[0].dtype.kind == "i"
        return np.asarray(np.mean(values, 0, dtype="float64" if integral else values[0].dtype))
    function = {"sum": np.sum, "prod": np.prod, "min": np.min, "max": np.max}[op]
    made = function(np.stack(values), axis=0)
    return np.asarray(made, dtype=values[0].dtype)


def check(got: Any, wanted: Any) -> None:
    """Equal in kind, type, shape and values."""
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        check(list(got.values()), list(wanted.values()))
    elif isinstance(wanted, (list, tuple)):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            check(one, other)
    elif isinstance(wanted, (torch.Tensor, np.ndarray)):
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        one, other = (torch.as_tensor(each).to(torch.complex128) for each in (got, wanted))
        assert torch.allclose(one, other, rtol=1e-2)  # Whole numbers of two digits are told apart.
    else:
        assert wanted is None or got == pytest.approx(wanted, rel=1e-12)
