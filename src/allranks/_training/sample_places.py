"""Where each rank's samples belong among all of them: pure functions, the same on all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allranks._system.printable import brief_repr
from allranks._system.words import named
from allranks._training.shards import Place, part_of
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SHOWN = 5
"""How many ranks or indices an error names."""


def as_indices(indices: Any, count: int) -> NDArray[np.int64]:
    """A rank's indices as an array.

    Raises:
        CollectiveError: they are no integers in one dimension, or not one for each sample.
    """
    import numpy as np

    try:
        found = np.asarray(indices.cpu() if hasattr(indices, "cpu") else indices)
    except Exception as error:
        raise CollectiveError(f"indices: {type(error).__name__}: {error}") from error
    if not found.size:
        found = np.empty(found.shape, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise CollectiveError(f"indices={brief_repr(indices)}: expected integers in one dimension")
    if len(found) != count:
        raise CollectiveError(f"there are {count} samples and {len(found)} indices")
    return found.astype(np.int64)


def places_by_shard(ranks: Sequence[int], counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Where each member's samples belong if they were split by ``shard``.

    Args:
        ranks: the members' global ranks.
        counts: how many samples each has.

    Raises:
        MismatchError: ``shard`` does not split so many samples so.
    """
    import numpy as np

    total, size = sum(counts), len(counts)
    shares = [part_of(total, Place(index, size)) for index in range(size)]
    wrong = [i for i in range(size) if counts[i] != len(shares[i])]
    if wrong:
        told = ", ".join(
            f"rank {ranks[i]} has {counts[i]} instead of {len(shares[i])}" for i in wrong[:SHOWN]
        )
        more = f" and {len(wrong) - SHOWN} ranks more" if len(wrong) > SHOWN else ""
        raise MismatchError(
            f"gather_shards: this is not how shard() splits {total} samples among "
            f"{named(ranks)}: {told}{more}. Pass indices= for another split."
        )
    return [np.arange(share.start, share.stop, share.step) for share in shares]


def check_indices(ranks: Sequence[int], each: Sequence[NDArray[np.int64]]) -> None:
    """Refuse indices that are not 0..n-1, each once.

    Args:
        ranks: the members' global ranks.
        each: their indices.

    Raises:
        MismatchError: an index is missing, or there twice, or out of range.
    """
    import numpy as np

    together = np.concatenate(each)
    total = len(together)
    outside = (together < 0) | (together >= total)
    times = np.bincount(together[~outside], minlength=total)
    if not outside.any() and (times == 1).all():
        return
    wrong = {
        "twice or more": _owned(np.flatnonzero(times > 1), ranks, each),
        "missing": _listed(np.flatnonzero(times == 0), str),
        f"not in 0..{total - 1}": _owned(np.unique(together[outside]), ranks, each),
    }
    told = "; ".join(f"{what}: {some}" for what, some in wrong.items() if some)
    raise MismatchError(
        f"gather_shards: the indices of {total} samples must be 0..{total - 1}, each once; {told}"
    )


def _owned(
    found: NDArray[np.int64], ranks: Sequence[int], each: Sequence[NDArray[np.int64]]
) -> str:
    """The first few indices, and whose they are."""

    def told(index: int) -> str:
        owners = [rank for rank, some in zip(ranks, each, strict=True) if (some == index).any()]
        return f"{index} ({named(owners)})"

    return _listed(found, told)


def _listed(found: NDArray[np.int64], told: Any) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(told(int(index)) for index in found[:SHOWN]) + more
