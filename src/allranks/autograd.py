"""Collectives through which gradients flow, for losses over the data of all ranks.

What is differentiated is the sum of all ranks' losses: backward, each of these calls adds up, or
sends back, what the ranks' losses say. A loss over the embeddings of all ranks, such as CLIP's::

    images = allranks.autograd.all_gather(image_features, cat=True)
    texts = allranks.autograd.all_gather(text_features, cat=True)
    mine = len(image_features) * allranks.get_rank() + torch.arange(len(image_features))
    loss = (
        cross_entropy(scale * image_features @ texts.T, mine)
        + cross_entropy(scale * text_features @ images.T, mine)
    ) / 2
    loss.backward()

Each rank's loss is the mean over its own rows. ``DistributedDataParallel`` averages the gradients
of all ranks, so that the parameters get the gradient of the mean of the losses, which is that of
one process with the whole batch: there is no factor to add. Without DDP, average the parameters'
gradients yourself (``allranks.all_reduce(gradient, average=True)``).

The backward calls are collectives, too: every rank of the group must use the results in its loss,
if only multiplied by zero, and call ``backward`` in the same order.
"""

from __future__ import annotations

from allranks._collectives.differentiable import (
    all_gather,
    all_reduce,
    all_to_all,
    broadcast,
    reduce_scatter,
)

__all__ = ["all_gather", "all_reduce", "all_to_all", "broadcast", "reduce_scatter"]
