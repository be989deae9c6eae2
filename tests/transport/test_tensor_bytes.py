"""How tensors lie in memory: what may be written in place, and what is a copy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allranks._transport.tensor_bytes import (
    as_bytes,
    contiguous,
    is_contiguous,
    overlaps,
    why_not_dense,
)

SIZES = st.lists(st.integers(0, 4), max_size=4)


@settings(deadline=None)
@given(SIZES.flatmap(lambda s: st.tuples(st.just(s), st.tuples(*[st.integers(0, 9) for _ in s]))))
def test_overlap_is_told_exactly(layout):
    """As by writing down every element's address."""
    sizes, strides = layout
    tensor = torch.zeros(200).as_strided(sizes, strides)
    addresses = torch.arange(200).as_strided(sizes, strides).flatten().tolist()
    assert overlaps(tensor) == (len(set(addresses)) < len(addresses))


GRID = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("tensor", "overlapping"),
    [
        (GRID, False),
        (GRID.permute(2, 0, 1), False),
        (GRID[:, :2], False),
        (GRID[:, ::2, ::3], False),
        (GRID[:0], False),
        (GRID[0, 0, 0], False),
        (GRID[:, :1].expand(2, 1, 4), False),
        (torch.zeros(1).expand(1, 1), False),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), False),
        (torch.zeros(3).as_strided((1, 3), (0, 1)), False),
        (torch.zeros(9).as_strided((2, 3), (3, 2)), False),
        (torch.zeros(20).as_strided((3, 3), (3, 2)), False),
        (torch.zeros(20).as_strided((3, 4), (3, 2)), True),
        (GRID[:, :1].expand(2, 3, 4), True),
        (torch.zeros(1).expand(10**12), True),
        (torch.zeros(9).unfold(0, 3, 1), True),
        (torch.zeros(10**6).unfold(0, 1000, 1), True),
        (torch.zeros(3, 1).expand(3, 0), False),
    ],
)
def test_overlaps(tensor, overlapping):
    """Transposes, slices and dimensions of size one do not; expansions and windows do."""
    assert overlaps(tensor) is overlapping


def test_contiguous_is_the_tensor_itself_where_it_can_be():
    """A conjugate or negative view is a promise to compute, and no values in memory."""
    complex_ones = torch.full((2,), 1 + 1j)
    for plain in (GRID, GRID[:1], complex_ones, torch.zeros(3).as_strided((1, 3), (7, 1))):
        assert is_contiguous(plain)
        assert contiguous(plain) is plain
    for view in (GRID.mT, GRID[:, :2], complex_ones.conj(), complex_ones.conj().imag):
        made = contiguous(view)
        assert not is_contiguous(view)
        assert is_contiguous(made)
        assert torch.equal(made, view)


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint16, torch.bfloat16, torch.float8_e5m2, torch.complex128]
)
def test_bytes_share_the_tensors_memory(dtype):
    """For every dtype, no dimension, and no element."""
    for tensor in (torch.ones(2, 3).to(dtype), torch.ones(()).to(dtype)):
        view = as_bytes(tensor)
        assert view.shape == (tensor.numel() * tensor.element_size(),)
        view.zero_()
        assert torch.equal(tensor.to(torch.complex64).real, torch.zeros(tensor.shape))
    for empty in (torch.ones(0, 3), torch.ones(3)[::2][:0]):
        assert as_bytes(empty.to(dtype)).shape == as_bytes(empty).shape == (0,)


@pytest.mark.filterwarnings("ignore:.*deprecat")
def test_what_is_no_plain_block_of_numbers():
    """Each with its remedy."""
    assert why_not_dense(GRID) is None
    assert "torch.sparse_coo; pass tensor.to_dense()" in why_not_dense(torch.eye(2).to_sparse())
    assert "holds no data" in why_not_dense(torch.empty(2, device="meta"))
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    assert "pass tensor.int_repr()" in why_not_dense(quantized)
