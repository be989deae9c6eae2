"""Collectives on real ranks: the right result, or one error on every rank that names the fault."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks.errors import CollectiveError, MismatchError
from expectations import Celsius, everyone_works_on, identical, rank_and_size, refusal, same_values


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Metrics:
    loss: Any
    steps: Any = field(init=False, default=1)


class Unspeakable:
    """An object that cannot even be shown."""

    def __repr__(self):
        raise ValueError("no words")


def numbers_are_reduced():
    rank, size = rank_and_size()
    total = sum(range(1, size + 1))
    expected = [
        (rank + 1, "sum", total),
        (rank + 1, "mean", total / size),
        (float(rank + 1), "sum", float(total)),
        (rank + 1, "max", size),
        (rank + 1, "min", 1),
        (rank + 1, "prod", math.factorial(size)),
        (True, "sum", size),
        (rank == 0, "max", True),
        (0.1, "sum", math.fsum([0.1] * size)),
        (2**53 + 1, "sum", size * (2**53 + 1)),
        (2**63 if rank == 0 else 0, "sum", 2**63),
        (-(2**63) if rank == 0 else 0, "sum", -(2**63)),
        (1 + 1j, "sum", size * (1 + 1j)),
        (0 if rank else 0.5, "sum", 0.5),
        (np.float32(0.5), "sum", np.float32(size / 2)),
        (np.int16(rank + 1), "sum", np.int16(total)),
        (np.int64(rank + 1), "mean", np.float64(total / size)),
        (np.bool_(rank == 0), "max", np.bool_(True)),
    ]
    for number, op, result in expected:
        assert identical(allranks.all_reduce(number, op=op), result), (number, op)
    assert identical(allranks.all_reduce(rank + 1, average=True), total / size)
    assert identical(allranks.all_reduce(rank, average=True, op="mean"), (size - 1) / 2)
    assert identical(allranks.all_reduce(3, device="cpu"), 3 * size)


def negative_zeros_stay():
    """A sum of -0.0 from all ranks is -0.0, as IEEE 754 says; of any other zeros 0.0."""
    rank, size = rank_and_size()
    for op in ("sum", "mean"):
        made = allranks.all_reduce([-0.0, np.float32(-0.0), -0.0 if rank else 0.0], op=op)
        assert [math.copysign(1, one) for one in made] == [-1, -1, 1]
        for dtype in (torch.float32, torch.bfloat16):
            for length in (2, 40_000):
                zeros = torch.full((length,), -0.0, dtype=dtype)
                mixed = zeros.clone() if rank else zeros.abs()
                for one in (*allranks.all_reduce([zeros, zeros], op=op), zeros):
                    assert signs(allranks.all_reduce(one, op=op)) == {True}, (dtype, length)
                for one in (*allranks.all_reduce([mixed, mixed], op=op), mixed):
                    assert signs(allranks.all_reduce(one, op=op)) == {False}, (dtype, length)
        array = allranks.all_reduce(np.full(3, -0.0), op=op)
        assert np.signbit(array).all()
    assert signs(allranks.reduce_scatter([torch.full((2,), -0.0)] * size)) == {True}


def signs(tensor):
    return set(tensor.signbit().tolist())


def arrays_are_reduced():
    rank, size = rank_and_size()
    total = sum(range(1, size + 1))
    ones = np.ones((2, 3))
    for name in ("uint8", "int8", "int32", "int64", "float16", "float32", "float64", "complex64"):
        array = ones.astype(name) * np.array(rank + 1, dtype=name)
        made = allranks.all_reduce(array)
        assert identical(made, ones.astype(name) * np.array(total, dtype=name)), name
        assert made.flags.owndata
        assert made.flags.writeable
        assert identical(array, ones.astype(name) * np.array(rank + 1, dtype=name))
    first = np.array([rank == 0, False])
    expected = [
        (np.array([rank + 1]), "sum", np.array([total])),
        (np.array(rank + 1.0), "sum", np.array(float(total))),
        (np.zeros((0, 3)), "sum", np.zeros((0, 3))),
        (np.array([rank + 1, 2**53 + 1]), "max", np.array([size, 2**53 + 1])),
        (np.array([rank + 1]), "mean", np.array([total / size])),
        (np.array([rank + 1], dtype=np.uint16), "mean", np.array([total / size])),
        (first, "sum", np.array([1, 0])),
        (first, "mean", np.array([1 / size, 0])),
        (first, "max", np.array([True, False])),
        (first, "min", np.array([size == 1, False])),
        (ones.T * 2, "sum", ones.T * 2 * size),
        (np.arange(4)[::-1], "sum", np.arange(4)[::-1] * size),
        (np.array([1, 2], dtype=">i4"), "sum", np.array([1, 2], dtype=np.int32) * np.int32(size)),
        (np.broadcast_to(1.0, (3,)), "sum", np.full(3, float(size))),
    ]
    for array, op, result in expected:
        assert identical(allranks.all_reduce(array, op=op), result), (array, op)


def trees_are_reduced():
    rank, size = rank_and_size()
    ones, tensor = np.ones(2), torch.ones(2, 2)
    tree = {
        "b": [rank, (0.5, ones)],
        "a": Pair(tensor, {"x": torch.ones((), dtype=torch.int64), 1: True}),
        "empty": [{}, (), np.zeros(0)],
    }
    assert identical(
        allranks.all_reduce(tree),
        {
            "b": [sum(range(size)), (0.5 * size, ones * size)],
            "a": Pair(tensor * size, {"x": torch.tensor(size), 1: size}),
            "empty": [{}, (), np.zeros(0)],
        },
    )
    assert identical(tree["a"].first, torch.ones(2, 2))
    for changed in allranks.all_reduce([tensor, tensor]):
        changed.mul_(torch.ones(2, 2, requires_grad=True)).sum().backward()
    assert identical(ones, np.ones(2))
    made = allranks.all_reduce(Metrics(rank))
    assert (type(made), made.loss, made.steps) == (Metrics, sum(range(size)), size)
    counted = allranks.all_reduce(Counter(a=2))
    assert (type(counted), counted) == (Counter, Counter(a=2 * size))
    assert allranks.all_reduce(defaultdict(int, a=1))["b"] == 0
    mixed = {"a": 1, "b": 2.0} if rank else OrderedDict(b=2.0, a=1)
    assert identical(dict(sorted(allranks.all_reduce(mixed).items())), {"a": size, "b": 2.0 * size})
    for empty in ({}, [], (), [[]]):
        assert identical(allranks.all_reduce(empty), empty)
    # A tensor in a tree is not written to, so that neither its layout nor its kind is in the way.
    views = [torch.ones(1).expand(3), torch.full((2,), 1j).conj(), tensor[:, :1]]
    results = [torch.full((3,), size), torch.full((2,), -1j) * size, tensor[:, :1] * size]
    assert all(map(torch.equal, allranks.all_reduce(views), results))
    parameter = torch.nn.Parameter(torch.ones(2))
    assert identical(allranks.all_reduce([parameter], average=True), [torch.ones(2)])
    long = {f"layer{i}.weight": torch.full((i % 3,), float(i)) for i in range(100)}
    assert identical(allranks.all_reduce(long, average=True), long)


def leaves_that_are_alike_make_ordinary_tensors():
    rank, size = rank_and_size()
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.complex64):
        for shape in ((), (3,), (2, 0), (300, 30)):
            tree = {f"{i}": torch.full(shape, i + rank, dtype=dtype) for i in range(12)}
            made = allranks.all_reduce(tree)
            assert list(made) == list(tree)
            made["0"].add_(torch.ones(shape, dtype=dtype)).sub_(1)
            made["1"].zero_()
            for i in (0, *range(2, 12)):
                total = i * size + sum(range(size))
                assert identical(made[f"{i}"], torch.full(shape, total, dtype=dtype))
                assert identical(tree[f"{i}"], torch.full(shape, i + rank, dtype=dtype))
    weight = torch.ones(2, requires_grad=True)
    for one in allranks.all_reduce([torch.zeros(2), torch.zeros(2)]):
        one.add_(weight).sum().backward()
    # One rank's leaves are less alike than the others'.
    leaf = torch.ones(2, requires_grad=rank == 0)
    assert identical(
        allranks.all_reduce([torch.ones(2), leaf]), [torch.full((2,), float(size))] * 2
    )
    odd = torch.ones(2, dtype=torch.bfloat16 if rank == size - 1 else torch.float32)
    if size > 1:
        refusal(MismatchError, allranks.all_reduce, [torch.ones(2), odd])
    everyone_works_on()


def a_call_like_an_earlier_one_is_as_careful():
    _, size = rank_and_size()
    for _ in range(3):
        tensor = torch.ones(4, 3)
        assert allranks.all_reduce(tensor) is tensor
        assert identical(tensor, torch.full((4, 3), float(size)))
        assert identical(allranks.all_reduce(torch.ones(3), average=True), torch.ones(3))
        columns = torch.ones(4, 3)[:, ::2]
        assert identical(allranks.all_reduce(columns), torch.full((4, 2), float(size)))
        negative = torch._neg_view(torch.ones(2))
        assert allranks.all_reduce(negative).tolist() == [-size, -size]
        leaf = torch.ones(3, requires_grad=True)
        assert allranks.all_reduce(leaf) is leaf
        refusal(CollectiveError, allranks.all_reduce, leaf * 2)
        refusal(CollectiveError, allranks.all_reduce, torch.ones(1).expand(3))
        refusal(CollectiveError, allranks.all_reduce, torch.eye(3).to_sparse())
    everyone_works_on()


def tensors_are_reduced_in_place():
    rank, size = rank_and_size()
    total = sum(range(1, size + 1))
    whole = (torch.uint8, torch.int8, torch.int32, torch.int64)
    broken = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for dtype in (*whole, *broken, torch.complex64, torch.complex128):
        tensor = torch.full((2, 3), rank + 1).to(dtype)
        assert allranks.all_reduce(tensor) is tensor
        assert identical(tensor, torch.full((2, 3), total).to(dtype))
    for op, result in (("min", 1), ("max", size), ("prod", math.factorial(size))):
        assert allranks.all_reduce(torch.tensor([rank + 1]), op=op).item() == result
    for dtype in (*broken, torch.complex64):
        mean = allranks.all_reduce(torch.full((2,), rank + 1).to(dtype), average=True)
        assert identical(mean, torch.full((2,), total / size).to(dtype))
    first = torch.tensor([rank == 0, False, True])
    assert allranks.all_reduce(first.clone(), op="max").tolist() == [True, False, True]
    assert allranks.all_reduce(first.clone(), op="min").tolist() == [size == 1, False, True]
    for shape in ((), (0,), (0, 3), (1,)):
        assert allranks.all_reduce(torch.ones(shape)).shape == shape
    moved = torch.ones(2)
    assert allranks.all_reduce(moved, device="cpu") is moved
    assert allranks.all_reduce(moved, None, True, torch.device("cpu")) is moved
    assert torch.equal(moved, torch.full((2,), float(size)))


LAYOUTS = {
    "columns": lambda base: base[:, :2],
    "rows": lambda base: base[::2],
    "transposed": lambda base: base.T,
    "one column": lambda base: base[:, 1],
    "one element": lambda base: base[1, 1],
    "conjugate": lambda base: base.conj(),
    "imaginary part of the conjugate": lambda base: base.conj().imag,
    "real part": lambda base: base.real,
    "oddly strided": lambda base: base.as_strided((1, 4), (9, 1)),
}


def any_layout_is_written_in_place():
    rank, size = rank_and_size()
    for name, view in LAYOUTS.items():
        start = torch.arange(16).reshape(4, 4) * (1 + 2j)
        reduced, averaged, sent = start.clone(), start.clone(), start * (rank + 1)
        # On one rank the same values lie in another order.
        if rank == 0 and name == "transposed":
            wanted = view(start).contiguous()
            tensors = [wanted.clone(), wanted.clone(), wanted.clone()]
        else:
            tensors = [view(reduced), view(averaged), view(sent)]
        before = view(start).clone()
        allranks.all_reduce(tensors[0])
        allranks.all_reduce(tensors[1], average=True)
        allranks.broadcast(tensors[2], 0)
        assert torch.equal(tensors[0], before * size), name
        assert torch.equal(tensors[1], before), name
        assert torch.equal(tensors[2], before), name
        untouched = start.clone()
        view(untouched).mul_(size)
        if tensors[0]._base is reduced:
            assert torch.equal(reduced, untouched), name


def autograd_is_not_cheated():
    rank, size = rank_and_size()
    leaf = torch.nn.Parameter(torch.full((2,), float(rank)))
    for call in (allranks.all_reduce, lambda tensor: allranks.broadcast(tensor, 0)):
        told = refusal(CollectiveError, call, leaf * 2)
        assert f"on rank {rank}: the tensor is part of an autograd graph" in told
        assert "pass tensor.detach()" in told
    told = refusal(CollectiveError, allranks.all_reduce, {"a": leaf * 2})
    assert "data['a']: the tensor is part of an autograd graph" in told
    graph = leaf * 2
    with torch.no_grad():
        assert allranks.all_reduce(graph) is graph
    assert allranks.all_reduce(leaf, average=True) is leaf
    assert leaf.requires_grad
    assert torch.equal(leaf.detach(), torch.full((2,), (size - 1) / 2))
    leaf.sum().backward()
    assert torch.equal(leaf.grad, torch.ones(2))
    gathered = allranks.all_gather(leaf * 2)
    assert all(type(one) is torch.Tensor and not one.requires_grad for one in gathered)
    allranks.broadcast(leaf, size - 1)


def bad_tensors_are_refused_before_anything_is_sent():
    rank, size = rank_and_size()
    whole = torch.arange(3)
    told = refusal(CollectiveError, allranks.all_reduce, whole, average=True)
    assert f"on rank {rank}: a tensor of torch.int64 cannot hold the mean" in told
    assert "convert it first, for example with .double()" in told
    assert torch.equal(whole, torch.arange(3))
    yes = torch.ones(2, dtype=torch.bool)
    told = refusal(CollectiveError, allranks.all_reduce, yes)
    assert "torch.bool cannot hold the sum" in told
    refusal(CollectiveError, allranks.all_reduce, yes, average=True)
    expanded = torch.ones(2, 1).expand(2, 3)
    for call in (allranks.all_reduce, lambda tensor: allranks.broadcast(tensor, 0)):
        told = refusal(CollectiveError, call, expanded)
        assert "share memory, as after expand() (shape (2, 3), strides (1, 0))" in told
        refusal(CollectiveError, call, torch.ones(5).unfold(0, 3, 1))
        assert "layout torch.sparse_coo" in refusal(CollectiveError, call, torch.eye(2).to_sparse())
        assert "meta" in refusal(CollectiveError, call, torch.ones(2, device="meta"))
    for dtype in (torch.int16, torch.uint16, torch.uint64, torch.float8_e4m3fn):
        told = refusal(CollectiveError, allranks.all_reduce, torch.ones(2).to(dtype), op="max")
        assert f"gloo has no max of tensors of {dtype}; convert it first" in told
    for op in ("min", "max", "prod"):
        told = refusal(CollectiveError, allranks.all_reduce, torch.ones(2) * 1j, op=op)
        assert f"no {op} of tensors of torch.complex64" in told
    for data in (torch.ones(2), 1):
        told = refusal(CollectiveError, allranks.all_reduce, data, op="xor")
        assert "op=xor is none of sum, mean, min, max, prod, band, bor, bxor" in told
        told = refusal(CollectiveError, allranks.all_reduce, data, average=True, op="max")
        assert "op=max with average=True is none of" in told
    told = refusal(CollectiveError, allranks.broadcast, torch.eye(2).T, 0, async_op=True)
    assert "async_op=True needs a contiguous tensor" in told
    assert f"src={size}" in refusal(CollectiveError, allranks.broadcast, torch.ones(1), size)
    everyone_works_on()


def bad_data_are_refused_on_every_rank():
    cycle = []
    cycle.append(cycle)
    expected = [
        ("text", "data: 'text' (str) is neither a number, an array, a tensor, nor a tree"),
        ({"a": [1, None]}, "data['a'][1]: None (NoneType) is neither"),
        ({1, 2}, "data: {1, 2} (set) is neither"),
        (b"b", "data: b'b' (bytes) is neither"),
        (Pair(1, "s"), "data.second: 's' (str) is neither"),
        (2**64, f"data: {2**64} (int): there is no sum of such numbers in 64 bits"),
        (np.array(["a"]), "data: an array of <U1: "),
        (np.array([None]), "data: an array of object: "),
        (np.array([1], dtype=np.int16), "data: gloo has no sum of tensors of torch.int16"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "data: an array of datetime64[D]: "),
        (np.ma.masked_array([1, 2], [True, False]), "data: a MaskedArray is more than an array"),
        ([torch.ones(2, dtype=torch.bool)], "data[0]: a tensor of torch.bool cannot hold the sum"),
        ([torch.eye(2).to_sparse()], "data[0]: a tensor of layout torch.sparse_coo"),
    ]
    ranks = "rank 0: " if allranks.get_world_size() == 1 else "ranks 0"
    for data, told in expected:
        text = refusal(CollectiveError, allranks.all_reduce, data)
        assert f": all_reduce: {told}" in text, text
        assert text.startswith(ranks), text
    told = refusal(CollectiveError, allranks.all_reduce, cycle)
    assert ": all_reduce of a list: RecursionError" in told
    told = refusal(
        CollectiveError, allranks.all_reduce, [torch.ones(2), torch.arange(2)], op="mean"
    )
    assert "data[1]: a tensor of torch.int64 cannot hold the mean" in told
    told = refusal(CollectiveError, allranks.all_reduce, torch.Size([1]), average=True)
    assert "the result [1.0] does not go into a Size" in told
    everyone_works_on()


def tensors_of_all_sizes_are_gathered():
    rank, size = rank_and_size()

    def gathered(made):
        """Each rank's ``made(rank)``."""
        mine = made(rank)
        results = allranks.all_gather(mine)
        assert len(results) == size
        for index, one in enumerate(results):
            assert type(one) is torch.Tensor
            assert one.is_contiguous()
            assert same_values(one, made(index))
            one.zero_()
        assert same_values(mine, made(rank))

    names = "bool int16 uint16 bfloat16 float8_e5m2 complex128"
    for dtype in (getattr(torch, name) for name in names.split()):
        gathered(lambda r, dtype=dtype: torch.full((r + 1, 2), r + 1).to(dtype))
        gathered(lambda r, dtype=dtype: torch.full((r, 2), r + 1).to(dtype))
        gathered(lambda r, dtype=dtype: torch.tensor(r).to(dtype))
        gathered(lambda r, dtype=dtype: torch.full((3, 2), r).to(dtype))
        gathered(lambda _, dtype=dtype: torch.zeros(0, 3, dtype=dtype))
    gathered(lambda r: torch.arange(24).reshape(2, 12) if r % 2 else torch.arange(6).reshape(6, 1))
    gathered(lambda r: torch.arange(6).reshape(2, 3) if r % 2 else torch.arange(6).reshape(3, 2))
    gathered(lambda r: torch.arange(16).reshape(4, 4)[:, : r + 1])
    gathered(lambda r: torch.arange(16).reshape(4, 4).T if r else torch.arange(16).reshape(4, 4))
    gathered(lambda r: torch.ones(1).expand(r + 2))
    gathered(lambda r: (torch.arange(3) * (1 + 1j) * (r + 1)).conj())
    gathered(lambda r: torch.zeros(0) if r else torch.ones(1))
    gathered(lambda r: torch.zeros(100_000 * (r + 1), dtype=torch.uint8))
    whole = torch.cat(allranks.all_gather(torch.arange(rank + 1), device="cpu"))
    assert whole.tolist() == [i for r in range(size) for i in range(r + 1)]
    for kind in (torch.nn.Parameter, lambda tensor: tensor.as_subclass(Celsius)):
        results = allranks.all_gather(kind(torch.ones(2)))
        assert all(type(one) is torch.Tensor for one in results)


def rows_are_gathered_in_one_tensor():
    rank, size = rank_and_size()
    for rows in (1, 3000):
        mine = torch.full((rank * rows, 2), float(rank))
        whole = allranks.all_gather(mine, cat=True)
        counts = [(whole[:, 1] == r).sum().item() for r in range(size)]
        assert counts == [r * rows for r in range(size)]
        assert torch.equal(whole[:, 0].sort().values, whole[:, 0])
        equal = allranks.all_gather(torch.full((rows,), rank), cat=True)
        assert equal.tolist() == [r for r in range(size) for _ in range(rows)]
    assert allranks.all_gather(torch.tensor(rank), cat=True).tolist() == list(range(size))
    refusal(CollectiveError, allranks.all_gather, Unspeakable(), cat=True)
    told = refusal(CollectiveError, allranks.all_gather, [1], cat=True)
    assert "cat=True needs a tensor, not [1]" in told
    if size > 1:
        odd = torch.ones(2, 3 if rank == 1 else 2)
        told = refusal(MismatchError, allranks.all_gather, odd, cat=True)
        assert "differ in more than their first dimension: rank 0: [2, 2]; rank 1: [2, 3]" in told
    everyone_works_on()


def parts_are_reduced_and_scattered():
    rank, size = rank_and_size()
    total = sum(range(1, size + 1))
    ragged = [torch.full((i, 2), rank + 1.0) for i in range(size)]
    mine = allranks.reduce_scatter(ragged)
    assert identical(mine, torch.full((rank, 2), float(total)))
    assert identical(ragged[-1], torch.full((size - 1, 2), rank + 1.0))
    for dtype in (torch.int8, torch.bfloat16, torch.complex64):
        rows = torch.arange(2 * size + 1).reshape(-1, 1).to(dtype) * (rank + 1)
        whole = (torch.arange(2 * size + 1).reshape(-1, 1) * total).to(dtype)
        assert identical(allranks.reduce_scatter(rows), whole.tensor_split(size)[rank])
        assert identical(allranks.reduce_scatter(rows.T.contiguous().T[:, :1]), mine_of(whole))
    leaf = torch.ones(size, requires_grad=True)
    assert identical(allranks.reduce_scatter(leaf), torch.full((1,), float(size)))
    odd = torch.eye(size).to_sparse() if rank == 0 else torch.ones(size)
    told = refusal(CollectiveError, allranks.reduce_scatter, odd)
    assert "rank 0: reduce_scatter: a tensor of layout torch.sparse_coo" in told
    averaged = allranks.reduce_scatter(torch.full((size, 3), rank + 1.0), average=True)
    assert identical(averaged, torch.full((1, 3), total / size))
    large = torch.full((size * 100_000,), rank + 1)
    assert allranks.reduce_scatter(large, op="max").unique().tolist() == [size]
    for data, told in [
        (torch.tensor(1.0), "expected a tensor with dimensions or a list of tensors"),
        ([torch.ones(1)] * (size + 1), f"expected one tensor for each of {size} ranks, not"),
        ([1] * size, "expected a tensor with dimensions or a list of tensors, not [1"),
        (torch.ones(size, dtype=torch.bool), "torch.bool cannot hold the sum"),
    ]:
        assert told in refusal(CollectiveError, allranks.reduce_scatter, data)
    if size > 1:
        odd = torch.ones(size + rank)
        told = refusal(MismatchError, allranks.reduce_scatter, odd)
        assert "rank 0: reduce_scatter(sum) of tensors torch.float32[[1]" in told
    everyone_works_on()


def mine_of(whole):
    return whole.tensor_split(allranks.get_world_size())[allranks.get_rank()]


def anything_is_gathered():
    rank, size = rank_and_size()
    kinds = [
        lambda r: r,
        lambda r: r / 2,
        lambda r: 2**100 + r,
        np.float32,
        lambda r: "text" * r,
        lambda _: None,
        lambda r: None if r else "one",
        lambda r: b"\0" * r,
        lambda r: np.full((r, 2), r),
        lambda r: {"rank": r, "tensor": torch.full((r,), float(r))},
        lambda r: Pair([r], (Metrics(r),)),
        lambda _: [],
        lambda _: b"",
        lambda _: np.zeros(0),
    ]
    for kind in kinds:
        for call in (allranks.all_gather, allranks.all_gather_objects):
            wanted = [kind(r) for r in range(size)]
            assert identical(call(kind(rank)), wanted), wanted
        result = allranks.gather_objects(kind(rank))
        assert identical(result, wanted if rank == 0 else None)


def broadcast_reads_the_senders_tensor():
    rank, _ = rank_and_size()
    weight = torch.ones(2, requires_grad=True)
    strided = torch.ones(2, 2)[:, 0]
    loss = (weight * strided).sum()
    if rank == 0:
        allranks.broadcast(strided, 0)
        loss.backward()
    else:
        allranks.broadcast(strided, 0)


def broadcast_copies():
    rank, size = rank_and_size()
    dtypes = (torch.bool, torch.uint16, torch.bfloat16, torch.float8_e5m2, torch.complex64)
    for src in range(size):
        for dtype in dtypes:
            tensor = torch.full((2, 2), rank).to(dtype)
            assert allranks.broadcast(tensor, src) is None
            assert same_values(tensor, torch.full((2, 2), src).to(dtype))
        stamp = torch.tensor(1e9 + rank, dtype=torch.float64)
        allranks.broadcast(stamp, src)
        assert stamp.item() == 1e9 + src
    allranks.broadcast(torch.zeros(0, 2), 0)
    tensor = torch.full((3,), float(rank))
    handle = allranks.broadcast(tensor, size - 1, async_op=True)
    handle.wait()
    assert handle.is_completed()
    assert torch.equal(tensor, torch.full((3,), size - 1.0))
    tensor = torch.ones(1, 3) if rank else torch.ones(3, 1).T
    allranks.broadcast(tensor, 0, None, True).wait()


FACTS = [
    numbers_are_reduced,
    negative_zeros_stay,
    arrays_are_reduced,
    trees_are_reduced,
    leaves_that_are_alike_make_ordinary_tensors,
    a_call_like_an_earlier_one_is_as_careful,
    tensors_are_reduced_in_place,
    any_layout_is_written_in_place,
    autograd_is_not_cheated,
    bad_tensors_are_refused_before_anything_is_sent,
    bad_data_are_refused_on_every_rank,
    tensors_of_all_sizes_are_gathered,
    rows_are_gathered_in_one_tensor,
    parts_are_reduced_and_scattered,
    anything_is_gathered,
    broadcast_copies,
    broadcast_reads_the_senders_tensor,
    allranks.synchronize,
]


@pytest.mark.ranks(1, 2, 3, 4, setup=False)
@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_in_a_world(fact, unchecked):
    """The same facts hold at every world size."""
    fact()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.__name__)
def test_without_setup(fact):
    """They hold in a world of one where ``setup`` was never called."""
    fact()
    assert not allranks.initialized()


def in_subgroups(members):
    """Every collective, in a group of these ranks; elsewhere an error."""
    rank = allranks.get_rank()
    group = dist.new_group(members)
    mine = rank + 1
    calls = [
        lambda: allranks.all_reduce(mine, group),
        lambda: allranks.all_reduce(mine, group, average=True),
        lambda: allranks.all_reduce(torch.tensor([float(mine)]), group, True).item(),
        lambda: list(allranks.all_reduce({"a": np.array([mine])}, group)["a"]),
        lambda: [one.tolist() for one in allranks.all_gather(torch.full((mine,), mine), group)],
        lambda: [one.item() for one in allranks.all_gather(torch.tensor(mine), group)],
        lambda: allranks.all_gather(mine, group),
        lambda: allranks.all_gather_objects({"rank": rank}, group),
        lambda: allranks.gather_objects(mine, group),
        lambda: allranks.broadcast_object(mine, members[-1], group),
        lambda: allranks.broadcast_object(1, 0, group),
        lambda: allranks.broadcast(torch.ones(1), 0, group),
        lambda: sent_in(allranks.broadcast, group, members),
        lambda: sent_in(allranks.broadcast_object_list, group, members),
        lambda: allranks.synchronize(group=group),
    ]
    results = [result_or_refusal(call) for call in calls]
    everyone_works_on()
    return results


def result_or_refusal(call):
    try:
        return call()
    except CollectiveError as error:
        return str(error)


def sent_in(call, group, members):
    rank = allranks.get_rank()
    held = torch.tensor([rank, -rank]) if call is allranks.broadcast else [rank, -rank]
    call(held, members[-1], group)
    return list(map(int, held))


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([1], marks=pytest.mark.ranks(2, setup=False)),
        pytest.param([1, 2], marks=pytest.mark.ranks(3, setup=False)),
        pytest.param([1, 3], marks=pytest.mark.ranks(4, setup=False)),
    ],
)
def test_groups_without_rank_0(members, unchecked):
    """Means divide by the group's size, results are of its members, others get an error."""
    found, rank = in_subgroups(members), allranks.get_rank()
    total, last = sum(members) + len(members), members[-1]
    own = [member + 1 for member in members]
    if rank not in members:
        assert all(f"rank {rank} is not in this group" in told for told in found)
        return
    assert found[:4] == [total, total / len(members), total / len(members), [total]]
    assert found[4] == [[one] * one for one in own]
    assert found[5] == found[6] == own
    assert found[7] == [{"rank": member} for member in members]
    assert found[8] == (own if rank == members[0] else None)
    assert found[9] == last + 1
    assert "src=0 is not in this group" in found[10]
    assert "src=0 is not in this group" in found[11]
    assert found[12] == found[13] == [last, -last]


@pytest.mark.ranks(2, setup=False)
def test_a_destroyed_group_is_an_error(unchecked):
    """WORLD, which is looked up at each call, works on."""
    group = dist.new_group()
    dist.destroy_process_group(group)
    told = refusal(CollectiveError, allranks.all_reduce, 1, group)
    assert "this group was destroyed" in told
    everyone_works_on()


def test_a_collective_before_setup_names_the_remedy(monkeypatch):
    """In a world of several ranks nothing is quietly done by one of them."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    calls = [
        lambda: allranks.all_reduce(1),
        lambda: allranks.all_reduce(torch.ones(1)),
        lambda: allranks.all_gather(torch.ones(1)),
        lambda: allranks.gather_objects(1),
        lambda: allranks.broadcast(torch.ones(1), 0),
        lambda: allranks.broadcast_object(1, 0),
        allranks.synchronize,
    ]
    for call in calls:
        told = refusal(CollectiveError, call)
        assert "on rank 1 of 2 (started by env). Call allranks.setup() first." in told
