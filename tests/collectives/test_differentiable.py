"""Gradients between ranks, against the same program in one process."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

import allranks
from allranks import autograd
from allranks.errors import CollectiveError, MismatchError


def of_rank(rank: int, rows: int = 3) -> torch.Tensor:
    made = torch.arange(1.0, rows * 2 + 1, dtype=torch.float64).view(rows, 2)
    return (made * (rank + 1) / 3).requires_grad_()


def complex_of_rank(rank: int, dtype: torch.dtype) -> torch.Tensor:
    real, imaginary = of_rank(rank), of_rank(rank + 2).flip(0) / 7
    return torch.complex(real, imaginary).detach().to(dtype).requires_grad_()


def loss_of(rank: int, tensors) -> torch.Tensor:
    """Another loss on each rank, in which each tensor has another weight."""
    tensors = [torch.view_as_real(t * (1 - 2j)) if t.is_complex() else t for t in tensors]
    weights = [(i + 1) * (rank + 2) for i in range(len(tensors))]
    return sum(
        (torch.sin(t) * w).sum() + (t**2).sum() for t, w in zip(tensors, weights, strict=True)
    )


def in_one_process(inputs, collective) -> list[torch.Tensor]:
    """The gradients of the sum of all ranks' losses.

    Args:
        inputs: what each rank gives.
        collective: what each rank gets of all that, as a list.
    """
    total = sum(loss_of(rank, got) for rank, got in enumerate(collective(inputs)))
    flat = [one for some in inputs for one in (some if isinstance(some, list) else [some])]
    return list(torch.autograd.grad(total, flat, allow_unused=True, materialize_grads=True))


def check(inputs, results, collective, tolerance: float = 1e-12) -> None:
    """This rank's gradients, of what it has got, against those of one process."""
    rank, size = allranks.get_dist_info()
    given = inputs[rank] if isinstance(inputs[rank], list) else [inputs[rank]]
    mine = torch.autograd.grad(loss_of(rank, results), given)
    expected = in_one_process(inputs, collective)
    start = sum(len(some) if isinstance(some, list) else 1 for some in inputs[:rank])
    for one, other in zip(mine, expected[start : start + len(given)], strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    wanted = collective(inputs)[rank]
    for one, other in zip(results, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert size == len(inputs)


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("ragged", [False, True])
def test_all_gather(world, ragged: bool) -> None:
    inputs = [of_rank(rank, 3 + rank * ragged) for rank in range(world.world_size)]
    check(inputs, autograd.all_gather(inputs[world.rank]), lambda all_: [all_] * len(all_))
    joined = autograd.all_gather(inputs[world.rank], cat=True)
    check(inputs, [joined], lambda all_: [[torch.cat(all_)]] * len(all_))


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("average", [False, True])
def test_all_reduce(world, average: bool) -> None:
    inputs = [of_rank(rank) for rank in range(world.world_size)]

    def collective(all_):
        return [[sum(all_) / (len(all_) if average else 1)]] * len(all_)

    before = inputs[world.rank].detach().clone()
    check(inputs, [autograd.all_reduce(inputs[world.rank], average=average)], collective)
    assert torch.equal(inputs[world.rank].detach(), before)


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("average", [False, True])
def test_reduce_scatter(world, average: bool) -> None:
    size = world.world_size
    inputs = [[of_rank(rank + i, i + 1) for i in range(size)] for rank in range(size)]

    def collective(all_):
        scale = size if average else 1
        return [[sum(some[i] for some in all_) / scale] for i in range(size)]

    check(inputs, [autograd.reduce_scatter(inputs[world.rank], average=average)], collective)
    whole = [of_rank(rank, 2 * size + 1) for rank in range(size)]
    check(
        whole,
        [autograd.reduce_scatter(whole[world.rank])],
        lambda all_: [[part] for part in sum(all_).tensor_split(size)],
    )


@pytest.mark.ranks(1, 2, 3, 4)
def test_all_to_all(world) -> None:
    size = world.world_size
    inputs = [[of_rank(rank + i, rank + 2 * i) for i in range(size)] for rank in range(size)]
    check(
        inputs,
        autograd.all_to_all(inputs[world.rank]),
        lambda all_: [[some[i] for some in all_] for i in range(size)],
    )


@pytest.mark.ranks(1, 2, 3, 4)
def test_broadcast(world) -> None:
    inputs = [of_rank(rank) for rank in range(world.world_size)]
    src = world.world_size - 1
    made = autograd.broadcast(inputs[world.rank], src)
    check(inputs, [made], lambda all_: [[all_[src] + 0 * sum(all_)]] * len(all_))


COMPLEX = {
    "all_gather": (autograd.all_gather, lambda all_: [all_] * len(all_)),
    "all_reduce": (
        lambda mine: [autograd.all_reduce(mine)],
        lambda all_: [[sum(all_)]] * len(all_),
    ),
    "mean": (
        lambda mine: [autograd.all_reduce(mine, op="mean")],
        lambda all_: [[sum(all_) / len(all_)]] * len(all_),
    ),
    "reduce_scatter": (
        lambda mine: [autograd.reduce_scatter(mine)],
        lambda all_: [[part] for part in sum(all_).tensor_split(len(all_))],
    ),
    "all_to_all": (
        autograd.all_to_all,
        lambda all_: [*map(list, zip(*(one.tensor_split(len(all_)) for one in all_), strict=True))],
    ),
    "broadcast": (
        lambda mine: [autograd.broadcast(mine, 0)],
        lambda all_: [[all_[0] + 0 * sum(all_)]] * len(all_),
    ),
    "a conjugated view": (
        lambda mine: [autograd.all_reduce(mine.conj())],
        lambda all_: [[sum(one.conj() for one in all_)]] * len(all_),
    ),
    "imaginary parts": (
        lambda mine: autograd.all_gather(mine.conj().imag),
        lambda all_: [[-one.imag for one in all_]] * len(all_),
    ),
}


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("call", COMPLEX)
def test_complex_numbers(world, call: str, dtype: torch.dtype) -> None:
    made, collective = COMPLEX[call]
    inputs = [complex_of_rank(rank, dtype) for rank in range(world.world_size)]
    check(inputs, made(inputs[world.rank]), collective, 1e-12 if dtype.itemsize == 16 else 1e-5)


@pytest.mark.ranks(4)
def test_a_group_without_rank_0(world) -> None:
    group = allranks.split(world.rank > 0)
    mine = of_rank(world.rank)
    made = autograd.all_gather(mine, group)
    (gradient,) = torch.autograd.grad(sum((one * world.rank).sum() for one in made), [mine])
    assert (gradient == (6 if world.rank else 0)).all()
    total = autograd.all_reduce(mine, group=group)
    assert torch.equal(total[0, 0], torch.tensor(3.0 if world.rank else 1 / 3, dtype=torch.float64))


@pytest.mark.ranks(3)
def test_one_rank_alone_asks_for_a_gradient(world) -> None:
    """The others take part in the backward calls all the same."""
    mine = of_rank(world.rank).detach().requires_grad_(world.rank == 1)
    sum(one.sum() for one in autograd.all_gather(mine)).backward()
    autograd.broadcast(mine, 1).sum().backward()
    autograd.all_reduce(mine).sum().backward()
    assert (mine.grad is not None) == (world.rank == 1)
    if world.rank == 1:
        assert (mine.grad == 9).all()


@pytest.mark.ranks(2)
def test_without_gradients_nothing_is_asked(world) -> None:
    with torch.no_grad():
        assert not autograd.all_reduce(of_rank(world.rank)).requires_grad
    assert not autograd.all_gather(torch.ones(2), cat=True).requires_grad


class Towers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.image = torch.nn.Linear(6, 4).double()
        self.text = torch.nn.Linear(5, 4).double()

    def forward(self, images, texts):
        return self.image(images).tanh(), self.text(texts).tanh()


def clip_loss(image, text, images, texts, start: int) -> torch.Tensor:
    mine = torch.arange(start, start + len(image))
    return (cross_entropy(image @ texts.T, mine) + cross_entropy(text @ images.T, mine)) / 2


@pytest.mark.ranks(1, 2, 4)
def test_a_loss_over_all_ranks_is_that_of_one_process(world) -> None:
    """As in the docs: with DDP, which averages, no factor is to be added."""
    size = 12 // world.world_size
    torch.manual_seed(7)
    pictures, words = torch.randn(12, 6).double(), torch.randn(12, 5).double()
    whole = Towers()
    image, text = whole(pictures, words)
    clip_loss(image, text, image, text, 0).backward()

    start = world.rank * size
    towers = Towers()
    model = torch.nn.parallel.DistributedDataParallel(towers)
    image, text = model(pictures[start : start + size], words[start : start + size])
    gather = partial(autograd.all_gather, cat=True)
    clip_loss(image, text, gather(image), gather(text), start).backward()
    for one, other in zip(towers.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


WRONG = {
    "integers": lambda last: autograd.all_gather(torch.ones(2).int() if last else torch.ones(2)),
    "no tensor": lambda last: autograd.all_reduce(3.0 if last else torch.ones(2)),
    "another op": lambda last: autograd.all_reduce(torch.ones(2), op="max" if last else "sum"),
    "no sender": lambda last: autograd.broadcast(torch.ones(2), 9 if last else 0),
    "parts": lambda last: autograd.reduce_scatter([torch.ones(2)] * (2 if last else 3)),
    "objects": lambda last: autograd.all_to_all([1, 2, 3] if last else [torch.ones(1)] * 3),
    "shapes": lambda last: autograd.all_reduce(torch.ones(2 if last else 3)),
    "shapes of a broadcast": lambda last: autograd.broadcast(torch.ones(2 if last else 3), 0),
}


@pytest.mark.ranks(3)
@pytest.mark.parametrize("call", WRONG)
def test_one_wrong_rank_is_every_ranks_error(world, call: str) -> None:
    with pytest.raises(CollectiveError) as caught:
        WRONG[call](world.rank == 2)
    told = allranks.all_gather_objects(str(caught.value))
    assert told == [told[0]] * 3


@pytest.mark.ranks(2)
def test_another_call_on_another_rank(world) -> None:
    with pytest.raises(MismatchError, match=r"different calls.*autograd"):
        autograd.all_gather(torch.ones(1)) if world.rank else autograd.all_reduce(torch.ones(1))


@pytest.mark.parametrize(
    "tensor", [of_rank(0), complex_of_rank(0, torch.complex128)], ids=["float", "complex"]
)
def test_a_world_of_one_passes_gradcheck(tensor) -> None:
    for call in (
        lambda t: autograd.all_gather(t, cat=True),
        autograd.all_reduce,
        autograd.reduce_scatter,
        lambda t: autograd.all_to_all(t, cat=True),
        lambda t: autograd.broadcast(t, 0),
    ):
        assert torch.autograd.gradcheck(call, [tensor])


@pytest.mark.ranks(2)
def test_a_tensor_in_a_graph_is_refused_with_where_gradients_flow(world) -> None:
    with pytest.raises(CollectiveError, match=r"call allranks\.autograd"):
        allranks.all_reduce(torch.ones(2, requires_grad=True) * 2)
