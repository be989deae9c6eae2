"""Objects between ranks: equal on arrival, whatever their size, or one error on every rank."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import torch

import allranks
from allranks.errors import CollectiveError
from expectations import Celsius, everyone_works_on, rank_and_size, refusal, same_values
from harness import PATIENCE


class Unpicklable:
    """Cannot leave its process."""

    def __reduce__(self):
        raise TypeError("this stays here")


class Fixed:
    """Pickles as memory that nobody may write to."""

    def __reduce_ex__(self, protocol):
        return bytes, (pickle.PickleBuffer(b"fixed"),)


class Unloadable:
    """Leaves its process, and cannot enter another."""

    def __reduce__(self):
        return (_explode, ())


def _explode():
    raise ValueError("this cannot enter")


def from_other_ranks(value):
    """What arrives here of a value that every rank has, having really travelled."""
    rank, _ = rank_and_size()
    return [one for r, one in enumerate(allranks.all_gather_objects(value)) if r != rank]


def tensors_arrive_equal():
    grid = torch.arange(12.0).reshape(3, 4)
    names = "bool uint16 int64 float16 bfloat16 float8_e5m2 float64 complex64"
    tensors = [grid.to(getattr(torch, name)) for name in names.split()]
    tensors += [grid.T, grid[:, :2], grid[::2], torch.ones(1).expand(5), torch.tensor(3)]
    tensors += [torch.zeros(0, 3), (grid * 1j).conj(), (grid * 1j).conj().imag]
    for made in from_other_ranks(tensors):
        assert all(map(same_values, made, tensors))
        assert all(one.is_contiguous() and one.is_leaf for one in made)
        for one in made:
            one.zero_()
    for wanted in (True, False):
        for made in from_other_ranks(torch.ones(2, requires_grad=wanted)):
            assert made.requires_grad is wanted
    for made in from_other_ranks(grid.clone().requires_grad_() * 2):
        assert torch.equal(made.detach(), grid * 2)
    # Only the part that is seen travels, not the memory behind it.
    part = torch.zeros(1_000_000)[:3]
    for made in from_other_ranks(part):
        assert made.untyped_storage().nbytes() == 12
    twice = [grid] * 2
    for made in from_other_ranks(twice):
        assert made[0] is made[1]


def other_kinds_of_tensors_keep_working():
    noted = torch.ones(2)
    noted.note = "kept"
    parameter = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    values = {
        "parameter": parameter,
        "subclass": torch.ones(2).as_subclass(Celsius),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.ones(2, device="meta"),
        "noted": noted,
        "model": model,
        "state": OrderedDict(model.state_dict()),
    }
    for made in from_other_ranks(values):
        assert type(made["parameter"]) is torch.nn.Parameter
        assert not made["parameter"].requires_grad
        assert torch.equal(made["parameter"], parameter)
        assert type(made["subclass"]) is Celsius
        assert torch.equal(made["subclass"], torch.ones(2))
        assert torch.equal(made["sparse"].to_dense(), torch.eye(3))
        assert made["meta"].is_meta
        assert made["noted"].note == "kept"
        assert all(p.requires_grad for p in made["model"].parameters())
        shapes = [tuple(p.shape) for p in made["model"].parameters()]
        assert shapes == [(3, 2), (3,), (3,), (3,)]
        assert list(made["state"]) == list(model.state_dict())


def arrays_arrive_writable():
    rank, size = rank_and_size()
    fixed = np.arange(6)
    fixed.flags.writeable = False
    arrays = [
        fixed,
        np.broadcast_to(1.0, (4,)),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(9)[::-2],
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([None, "text"]),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    ]
    for made in from_other_ranks(arrays):
        for one, wanted in zip(made, arrays, strict=True):
            assert (one.dtype, one.shape) == (wanted.dtype, wanted.shape)
            assert (one == wanted).all()
            assert one.flags.writeable
            one[...] = wanted
        blocks = [one for one in made if one.size]
        pairs = [(a, b) for a in blocks for b in blocks if a is not b]
        assert not any(np.shares_memory(a, b) for a, b in pairs)
    results = allranks.all_gather(np.full(2, rank))
    results[0][:] = -1
    assert [one.tolist() for one in results[1:]] == [[r, r] for r in range(1, size)]


def objects_of_any_size_travel():
    rank, size = rank_and_size()
    for value in (b"", "", None, (), {}, set(), np.zeros(0), bytearray()):
        for made in from_other_ranks(value):
            assert type(made) is type(value)
            assert np.array_equal(made, value) if isinstance(value, np.ndarray) else made == value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_other_ranks(Fixed()) == [b"fixed"] * (size - 1)
    # From a header's frame to several megabytes, of another size on each rank.
    for length in (1, 200, 256, 1000, 100_000):
        strings = allranks.all_gather_objects("a" * (length * (rank + 1)))
        assert [len(one) for one in strings] == [length * (r + 1) for r in range(size)]
    many = allranks.all_gather_objects([np.full(3, rank)] * 100 + [torch.tensor(rank)] * rank)
    assert [len(one) for one in many] == [100 + r for r in range(size)]
    many = allranks.gather_objects([np.full(i % 3, rank) for i in range(300)])
    if rank == 0:
        assert all((array == r).all() for r, arrays in enumerate(many) for array in arrays)
    else:
        assert many is None
    large = np.random.default_rng(0).integers(0, 255, 20_000_000, dtype=np.uint8)
    sent = allranks.broadcast_object(large if rank == size - 1 else None, size - 1)
    assert hashlib.sha256(sent).digest() == hashlib.sha256(large).digest()


def one_ranks_objects_reach_all():
    rank, size = rank_and_size()
    for src in range(size):
        value = {"from": rank, "array": np.full(rank, rank), "tensor": torch.full((2,), rank)}
        made = allranks.broadcast_object(value, src)
        assert (made["from"], len(made["array"]), made["tensor"].tolist()) == (src, src, [src, src])
        assert (made is value) == (rank == src)
        entries = [Fraction(rank, 3), "text", None] if rank == src else [None] * 3
        alias = entries
        assert allranks.broadcast_object_list(entries, src, device="cpu") is None
        assert entries is alias
        assert entries == [Fraction(src, 3), "text", None]
    allranks.broadcast_object_list([], 0)
    # Only the sender's object travels, so that the others may hold anything.
    allranks.broadcast_object(1 if rank == 0 else Unpicklable())
    mine = object()
    assert allranks.all_gather_objects([mine])[rank][0] is mine


def objects_are_scattered():
    rank, size = rank_and_size()
    last = size - 1
    for scale in (1, 100_000):
        objects = [{"for": i, "array": np.full(i * scale, i)} for i in range(size)]
        mine = allranks.scatter_objects(objects if rank == last else None, last)
        assert mine["for"] == rank
        assert mine["array"].sum() == rank * rank * scale
        mine["array"][:] = 7
    assert allranks.scatter_objects(tuple(range(size))) == rank
    for wrong, told in (
        ([1] * (size + 1), f"expected one object for each of {size} ranks, not {size + 1} objects"),
        ("text", f"expected one object for each of {size} ranks, not 'text'"),
        ([lambda: 1] * size, "its function cannot be pickled"),
    ):
        assert told in refusal(CollectiveError, allranks.scatter_objects, wrong)
    assert "src=9 is not in this group" in refusal(CollectiveError, allranks.scatter_objects, [], 9)
    everyone_works_on()


def what_cannot_be_pickled_is_one_error_on_all():
    rank, size = rank_and_size()
    last = size - 1
    odd = {"data": [Unpicklable()]} if rank == last else 1
    calls = [
        lambda: allranks.gather_objects(odd),
        lambda: allranks.all_gather_objects(odd),
        lambda: allranks.all_gather(odd),
        lambda: allranks.broadcast_object(odd, last),
    ]
    for call in calls:
        told = refusal(CollectiveError, call)
        assert told == f"rank {last}: its dict cannot be pickled: TypeError: this stays here"
    told = refusal(CollectiveError, allranks.broadcast_object_list, [odd], last)
    assert told.startswith(f"rank {last}: its list cannot be pickled")
    endless = []
    for _ in range(100_000):
        endless = [endless]
    told = refusal(CollectiveError, allranks.gather_objects, endless if rank == last else 1)
    assert f"rank {last}: its list cannot be pickled: RecursionError" in told
    everyone_works_on()


FACTS = [
    tensors_arrive_equal,
    other_kinds_of_tensors_keep_working,
    arrays_arrive_writable,
    objects_of_any_size_travel,
    one_ranks_objects_reach_all,
    objects_are_scattered,
    what_cannot_be_pickled_is_one_error_on_all,
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


@pytest.mark.ranks(3, setup=False)
def test_what_cannot_be_unpickled_is_an_error_where_it_arrives(unchecked):
    """It names the sender and the size, and the group works on."""
    rank, _ = rank_and_size()
    mine = Unloadable() if rank == 1 else 1
    if rank == 0:
        told = refusal(CollectiveError, allranks.gather_objects, mine)
        assert told.startswith("the object from rank 1 (")
        assert told.endswith(" bytes) cannot be unpickled here: ValueError: this cannot enter")
    else:
        assert allranks.gather_objects(mine) is None
    everyone_works_on()


@pytest.mark.slow
@pytest.mark.ranks(2, timeout=PATIENCE)
def test_more_than_two_gigabytes_from_one_rank():
    """Beyond what 32 bits count."""
    rank, _ = rank_and_size()
    size = 2**31 + 5
    mine = np.zeros(size if rank == 1 else 3, dtype=np.uint8)
    mine[-1] = 7
    gathered = allranks.gather_objects({"array": mine})
    if rank == 0:
        assert [len(one["array"]) for one in gathered] == [3, size]
        assert gathered[1]["array"][-1] == 7
        assert gathered[1]["array"].flags.writeable
