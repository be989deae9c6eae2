"""How a rank finds the store that rank 0 hosts: at any of its addresses, until the deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from allranks._rendezvous.address_board import reached
from allranks._rendezvous.judge import PROGRESS_EVERY, PROGRESS_FIRST
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.roll_call import record_of
from allranks._rendezvous.tcp_store import PATIENCE, StoreAddress, connect, reason
from allranks._rendezvous.verdicts import TWO_JOBS, is_closed, refuse_foreign, signature_of
from allranks._system import sockets
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks._system.words import tell
from allranks.errors import MissingRanksError, RendezvousError, WrongJobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch.distributed as dist

    from allranks._rendezvous.address_board import AddressBoard
    from allranks._rendezvous.plan import RendezvousPlan
    from allranks._rendezvous.record import RankRecord
    from allranks._system.waiting import Deadline

_past: set[tuple[str, int, int]] = set()
"""Where this process has answered: the store's nonce, and its own id (a fork's is another), as
which rank."""


def answers_in(nonce: str, me: RankRecord) -> None:
    """Remember that this process answers, or has answered, the roll call in a store."""
    _past.add((nonce, me.pid, me.rank))


class _EarlierWorldError(RendezvousError):
    """Rank 0 has not left the last world yet; it will."""


class StoreSearch:
    """A rank's search for the store of rank 0, over all addresses, until the deadline."""

    def __init__(
        self, plan: RendezvousPlan, board: AddressBoard | None, me: RankRecord, deadline: Deadline
    ) -> None:
        self._plan = plan
        self._board = board
        self._me = me
        self._deadline = deadline
        self._tries: dict[StoreAddress, BackgroundCall[Meeting]] = {}
        self._found: dict[StoreAddress, Exception] = {}
        # Rank 0 may have been given another name of this host than loopback, and listen there.
        self._other_names = sockets.own_addresses() if plan.near_first else ()

    def find(self) -> Meeting:
        pause, report = 0.01, PROGRESS_FIRST
        while not self._deadline.passed:
            for address in self._addresses():
                meeting = self._try(address)
                if meeting is not None:
                    return meeting
            if self._deadline.elapsed > report:
                tell(f"still waiting for rank 0: {self._what_was_found() or self._no_address()}")
                report += PROGRESS_EVERY
            time.sleep(min(pause, self._deadline.left))
            pause = min(pause * 1.5, 0.25)
        raise self._verdict()

    def _addresses(self) -> Iterator[StoreAddress]:
        if self._board:
            notice = reached(self._board, self._board.read, self._deadline)
            if notice:
                yield from (StoreAddress(host, notice.port, notice) for host in notice.addresses)
            return
        hosts = (sockets.LOOPBACK,) if self._plan.one_host else self._plan.hosts
        hosts += self._other_names
        yield from (StoreAddress(host, port) for port in self._plan.ports for host in hosts)

    def _try(self, address: StoreAddress) -> Meeting | None:
        """One attempt at an address; one that blocks goes on beside the others."""
        seconds = 0.0 if address in self._tries else min(PATIENCE, self._deadline.left)
        if address not in self._tries:
            self._tries[address] = BackgroundCall(lambda: self._meeting_at(address))
        try:
            return self._tries[address].result(seconds)
        except StillRunning as error:
            self._found[address] = error
            return None
        except (OSError, RuntimeError) as error:
            if isinstance(error, RendezvousError) and self._is_final(error, address):
                raise
            self._found[address] = error
        del self._tries[address]
        return None

    def _has_answered(self, store: dist.Store) -> bool:
        """Whether another rank has brought this very process's record, and it counted."""
        told = record_of(store, self._me.rank)
        return told is not None and told.is_of_process_of(self._me)

    def _is_final(self, error: RendezvousError, address: StoreAddress) -> bool:
        """Whether no other address, and no later notice, can be the right one."""
        if isinstance(error, _EarlierWorldError) or address.host in self._other_names:
            return False
        elsewhere = self._board is not None or len(self._plan.ports) > 1
        return not (elsewhere and isinstance(error, (WrongJobError, MissingRanksError)))

    def _meeting_at(self, address: StoreAddress) -> Meeting:
        """Join a store only after it has shown whose it is: ports are used again."""
        store, route = connect(address.host, address.port, self._deadline)
        signed = signature_of(store, str(address), self._deadline)
        if address.notice and signed.nonce != address.notice.nonce:
            raise WrongJobError(f"the store at {address} is not the one of the notice")
        if (signed.nonce, self._me.pid, self._me.rank) in _past:
            raise _EarlierWorldError("the store of this process's last world, not yet gone")
        foreign = signed.rank_0.job != self._me.job
        if foreign or (is_closed(store) and not self._has_answered(store)):
            refuse_foreign(store, self._me, str(address), self._deadline)
        return Meeting(store, str(address), route, port=address.port, signature=signed)

    def _verdict(self) -> RendezvousError:
        wait = f"{self._me} did not find rank 0 within {self._deadline.seconds:g} s"
        if not self._found:
            return MissingRanksError(f"{wait}: {self._no_address()}.", missing=[0])
        found, reasons = self._found_where_it_was_named().values(), self._what_was_found()
        if any(isinstance(error, WrongJobError) for error in found):
            return WrongJobError(f"{wait}. {reasons}. {TWO_JOBS}")
        if all(isinstance(error, ConnectionRefusedError) for error in found):
            return MissingRanksError(f"{wait}. {reasons}; rank 0 is missing.", missing=[0])
        return RendezvousError(f"{wait}. {reasons}{self._local_holder()}.")

    def _no_address(self) -> str:
        if self._board:
            return f"it posted no address at {self._board.place}"
        return "no time was left to try its address, after the wait for this host's agent"

    def _what_was_found(self) -> str:
        return "; ".join(
            f"{address}: {error if isinstance(error, RendezvousError) else reason(error)}"
            for address, error in self._found_where_it_was_named().items()
        )

    def _found_where_it_was_named(self) -> dict[StoreAddress, Exception]:
        """Without this host's other names, unless a store of ours was there."""
        return {
            address: error
            for address, error in self._found.items()
            if address.host not in self._other_names or isinstance(error, RendezvousError)
        }

    def _local_holder(self) -> str:
        here = self._plan.one_host or self._plan.near_first
        known = here and len(self._plan.ports) == 1
        return f". The port is held by {sockets.holder(self._plan.ports[0])}" if known else ""
