"""``print`` on rank 0 alone."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from allranks._process_group.lifecycle import at_cleanup
from allranks._process_group.ranks import is_master
from allranks._system.graph_breaks import outside_graphs

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_before: list[Callable[..., None]] = []
"""Python's ``print``, or that of other code, while ours is in its place."""


class PrintingOnMaster:
    """Ends with a ``with`` block, or at ``cleanup``."""

    def __enter__(self) -> None:
        """Ranks but rank 0 are silent already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _restore()


@outside_graphs
def print_on_master() -> PrintingOnMaster:
    """Silence ``print`` on all ranks but rank 0, until ``cleanup``. Not collective.

    ``print(..., force=True)`` still speaks on every rank. As a context manager it ends with the
    block: ``with allranks.print_on_master(): ...``. What is not printed by ``print`` (warnings,
    logging, ``sys.stdout.write``) is heard as before. Calling it again changes nothing.

    Raises:
        DetectionError: nothing is set up, and the environment is half-set.
    """
    mine = is_master()
    if not _before:
        _before.append(builtins.print)
        builtins.print = _printer(_before[0], mine=mine)
        at_cleanup(_restore)
    return PrintingOnMaster()


def _printer(printed: Callable[..., None], *, mine: bool) -> Callable[..., None]:
    def print_here(*values: Any, force: bool = False, **how: Any) -> None:
        if mine or force:
            printed(*values, **how)

    return print_here


def _restore() -> None:
    """Give ``print`` back; another function that other code has put in its place is left there."""
    if _before:
        printed = _before.pop()
        if getattr(builtins.print, "__module__", "") == __name__:
            builtins.print = printed
