"""``Meeting``: a store that all ranks of a world reach."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.address_board import AddressBoard
    from allranks._rendezvous.tcp_store import Route


@dataclass
class Meeting:
    """A store that all ranks of the world reach.

    Attributes:
        store: the store.
        place: names it for people.
        route: the way to the store's host; None where this process hosts it, or where no
            connection leads there.
        board: where rank 0 posted its address and must take it down at the end, or None.
        server: what serves the store, on rank 0; nobody else may hold it, lest a process group
            that the program keeps should keep its port.
        external_store: names the store where no rank serves it: its loss is no rank's fault.
        ended: set when the meeting is over.
    """

    store: dist.Store
    place: str
    route: Route | None = None
    board: AddressBoard | None = None
    server: dist.Store | None = None
    external_store: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def take_down(self) -> None:
        """Leave nothing that the next meeting could meet."""
        if self.board:
            self.board.take_down()
        self.server = None
        self.ended.set()
