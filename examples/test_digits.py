"""Tests of the example's own distributed functions, on real ranks: ``pytest examples``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import digits


@pytest.mark.ranks(1, 2, 4)
def test_every_sample_is_predicted_once_and_in_order() -> None:
    labels = torch.tensor([3, 1, 4, 1, 5, 9, 2])  # Seven do not divide by two or four.
    images = nn.functional.one_hot(labels).float()
    predicted, _ = digits.test(nn.Identity(), images, labels)
    assert torch.equal(predicted, labels)


@pytest.mark.ranks(2)
def test_mistakes_come_by_rank() -> None:
    images, labels = torch.eye(4), torch.tensor([0, 0, 2, 2])
    _, wrong = digits.test(nn.Identity(), images, labels)
    assert wrong is None or [one["sample"] for some in wrong for one in some] == [1, 3]
