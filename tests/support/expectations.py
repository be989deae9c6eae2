"""What several tests of collectives expect, and how they say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import allranks


class Celsius(torch.Tensor):
    """A tensor subclass of the user's own."""


def identical(one, other):
    """Equal, of one type and dtype, at every level of a tree."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


def refusal(kind, call, *arguments, **keywords):
    """The text of the error of exactly this kind that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **keywords)
    assert caught.type is kind
    return str(caught.value)


def rank_and_size():
    return allranks.get_rank(), allranks.get_world_size()


def everyone_works_on():
    """The group is in step: the next collectives give the right results."""
    rank, size = rank_and_size()
    assert allranks.all_reduce(1) == size
    assert torch.equal(allranks.all_reduce(torch.ones(3)), torch.full((3,), float(size)))
    assert allranks.all_gather(rank) == list(range(size))


def same_values(one, other):
    """Equal in dtype, shape and values, also where the dtype knows no comparison."""
    wide = [tensor.to(torch.complex128) for tensor in (one, other)]
    return one.dtype == other.dtype and torch.equal(*wide)
