"""Ranks that stand alike, together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._watch.status_report import RankRow


def alike(rows: Sequence[RankRow], *, stacks: bool = False) -> list[list[RankRow]]:
    """The rows, those that say the same together.

    Args:
        rows: of ranks.
        stacks: whether their programs must stand at the same lines, too.
    """
    found: dict[object, list[RankRow]] = {}
    for row in rows:
        found.setdefault((row.state, row.doing, row.stack if stacks else ()), []).append(row)
    return list(found.values())
