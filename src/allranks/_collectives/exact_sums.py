"""Fewer rows of numbers with the same sums, to the last bit: what inner members pass on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def fewer_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows of 64-bit floats whose columns have the same exact sums.

    What is lost where two floats are added is a float itself (Knuth's two-sum), and makes a row of
    its own. A sum of zeros keeps its sign.

    Args:
        rows: of shape (rows, columns).

    Returns:
        As a rule two or three rows; those that were given, where a sum is not finite.
    """
    import numpy as np

    made, left = [], rows
    with np.errstate(all="ignore"):
        while len(left):
            total, left = _added(left)
            made.append(total)
    found = np.concatenate(made)
    return found if len(found) < len(rows) and np.isfinite(found).all() else rows


def _added(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """One row of rounded sums, and the rows of what was lost."""
    import numpy as np

    lost = []
    while len(rows) > 1:
        half = len(rows) // 2
        total, rest = _two_sum(rows[:half], rows[half : 2 * half])
        lost.append(rest)
        rows = np.concatenate([total, rows[2 * half :]])
    every = np.concatenate(lost) if lost else rows[:0]
    some = every[np.any(every != 0, axis=1)]
    return rows, np.where(some == 0, -0.0, some)  # The only zero that changes no sum of zeros.


def _two_sum(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    total = one + other
    part = total - one
    return total, (one - (total - part)) + (other - part)
