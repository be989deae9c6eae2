"""The contrastive loss: the gradients of several ranks are those of one process with all pairs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import allranks
import clip_loss


def towers() -> clip_loss.TwoTowers:
    torch.manual_seed(0)
    return clip_loss.TwoTowers().double()


def in_one_process(pairs) -> clip_loss.TwoTowers:
    """The gradients as the textbook has them, without any collective."""
    model = towers()
    image, text, scale = model(*pairs)
    products = scale * image @ text.T
    diagonal = torch.arange(len(image))
    loss = (cross_entropy(products, diagonal) + cross_entropy(products.T, diagonal)) / 2
    loss.backward()
    return model


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("count", [24, 25])
def test_the_gradients_are_those_of_one_process(count: int) -> None:
    pairs = [part.double() for part in clip_loss.draw_pairs(count, seed=7)]
    model = DistributedDataParallel(towers())
    clip_loss.clip_loss(*model(*map(allranks.shard, pairs))).backward()
    expected = dict(in_one_process(pairs).named_parameters())
    for name, parameter in model.module.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


@pytest.mark.ranks(2, setup=False, timeout=300)
def test_it_learns(monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("sys.argv", ["clip_loss.py", "--steps", "100"])
    clip_loss.main()
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert losses == sorted(losses, reverse=True)
    assert len(losses) == (2 if allranks.is_master() else 0)
