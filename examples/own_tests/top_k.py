"""A metric over all ranks, as a project has it: how often the label is among the best k."""

from __future__ import annotations

from torch import Tensor

import allranks


class TopK:
    """Counts samples over the batches of an epoch, and over all ranks at its end.

    The share is of all samples: a mean of the ranks' shares would give those of a rank with fewer
    samples more weight, and be no number at all where a rank has none.
    """

    def __init__(self, k: int = 1) -> None:
        self.k = k
        self.right = 0
        self.seen = 0

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Count a batch of this rank's."""
        best = scores.topk(self.k, dim=1).indices
        self.right += int((best == labels[:, None]).any(dim=1).sum())
        self.seen += len(labels)

    def compute(self) -> float:
        """The share over all ranks, the same on each. Collective."""
        total = allranks.all_reduce({"right": self.right, "seen": self.seen})
        if total["seen"] == 0:
            raise ValueError("no rank has seen a sample")
        return total["right"] / total["seen"]
