"""Logging that knows the ranks: who speaks, in which order, and from where."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

from allranks._collectives.tensors import synchronize
from allranks._process_group.ranks import get_dist_info
from allranks._system.graph_breaks import outside_graphs
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # Python 3.10 has no types for it.


class RankFilter(logging.Filter):
    """Adds ``%(rank)s``, ``%(world_size)s`` and ``%(host)s`` to what a handler or logger formats.

    ``handler.addFilter(allranks.RankFilter())``. Before ``setup`` they are what the launcher says;
    where half of that is missing, ``?``. Not collective.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        record.rank, record.world_size = _place()
        record.host = socket.gethostname()
        return True


def _place() -> tuple[int | str, int | str]:
    try:
        return get_dist_info()
    except DetectionError:
        return "?", "?"


class RankLogger(Adapter):
    """A logger whose calls say which ranks speak; made by ``get_logger``.

    Each call (``info``, ``warning``, ``log``, ...) takes, beside what ``logging`` takes:

    * ranks: "master" (the default: rank 0), "all", or a rank or several, as ``(0, 3)``.
    * in_order: True lets the ranks speak one after the other. Then the call is collective over
      WORLD: all ranks must make it, also those that stay silent, and each waits for the others,
      one small exchange for each rank.
    """

    def log(  # type: ignore[override]  # kwargs are those that logging names
        self,
        level: int,
        msg: object,
        *args: object,
        ranks: str | int | Iterable[int] = "master",
        in_order: bool = False,
        **kwargs: Any,
    ) -> None:
        """Log on the ranks that are asked for.

        Args:
            level: as for ``logging.Logger.log``.
            msg: as there.
            *args: as there.
            ranks: who speaks.
            in_order: whether they speak one after the other, which is collective.
            **kwargs: as there.

        Raises:
            ValueError: ``ranks`` names no ranks.
        """
        rank, size = get_dist_info()
        speaks = rank in _speakers(ranks, size)
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        for turn in range(size) if in_order else (rank,):
            if speaks and turn == rank:
                super().log(level, msg, *args, **kwargs)
            if in_order:
                synchronize()

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Leave the program's ``extra`` as it is."""
        return msg, kwargs


@outside_graphs
def get_logger(name: str | None = None) -> RankLogger:
    """A logger that speaks on rank 0 unless a call says otherwise. Not collective.

    ``log.info("epoch %d", n)``, ``log.info("here", ranks="all")``,
    ``log.warning("mine", ranks=(0, 3), in_order=True)``. Handlers, levels and formats are those of
    ``logging.getLogger(name)``.

    Args:
        name: as for ``logging.getLogger``.
    """
    return RankLogger(logging.getLogger(name), {})


def _speakers(ranks: object, size: int) -> Iterable[int]:
    if ranks == "master":
        return (0,)
    if ranks == "all":
        return range(size)
    asked = (ranks,) if isinstance(ranks, int) else ranks
    if isinstance(asked, (list, tuple, set, frozenset, range)) and all(
        type(rank) is int and 0 <= rank < size for rank in asked
    ):
        return asked
    raise ValueError(f'ranks={ranks!r}: expected "master", "all", or ranks from 0 to {size - 1}')
