"""``Meeting``: a store that all ranks of a world reach."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allranks._rendezvous.tcp_store import reconnected

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._rendezvous.address_board import AddressBoard
    from allranks._rendezvous.record import Signature
    from allranks._rendezvous.tcp_store import Route
    from allranks._system.waiting import Deadline


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
        port: of the store, where ``route`` leads to it.
        nonce: with what rank 0 signs the store.
        signature: how rank 0 has signed it; None where this rank has not looked yet.
        descriptors_needed: how many descriptors the world needs in the process that hosts the
            store; 0 where it is not this one.
        ended: set when the meeting is over.
    """

    store: dist.Store
    place: str
    route: Route | None = None
    board: AddressBoard | None = None
    server: dist.Store | None = None
    external_store: str = ""
    port: int = 0
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    signature: Signature | None = None
    descriptors_needed: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def another_store(self, deadline: Deadline) -> dist.Store:
        """The same store over another connection, while a call blocks the first one."""
        return reconnected(self.route.there, self.port, deadline) if self.route else self.store

    def take_down(self) -> None:
        """Leave nothing that the next meeting could meet."""
        if self.board:
            self.board.take_down()
        self.server = None
        self.ended.set()
