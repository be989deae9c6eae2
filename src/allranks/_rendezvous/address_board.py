"""Notice boards: where rank 0 posts the address of its store for ranks that cannot know it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from allranks._rendezvous.record import read
from allranks._system import processes, sockets, trusted_file
from allranks._system.printable import printable
from allranks._system.typed_json import PIDS, PORTS, MalformedError, must_be_in, parsed, written
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks.errors import RendezvousError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch.distributed as dist

    from allranks._system.waiting import Deadline

T = TypeVar("T")

SET_ADDRESS = (
    "set MASTER_ADDR, and MASTER_PORT if you like, for all ranks to the host of rank 0 (`mpirun -x "
    "MASTER_ADDR=host1 ...` with Open MPI, `mpiexec -genv MASTER_ADDR host1 ...` with MPICH)"
)
ADVICE = (
    f"{SET_ADDRESS}; or give setup(shared_file_dir=...) a directory that all hosts share; or, "
    "with MPI, install mpi4py for that MPI"
)


@dataclass(frozen=True)
class PostedAddress:
    """Rank 0's notice.

    Attributes:
        nonce: also stands in the store itself, so that an old notice is recognised.
        addresses: of rank 0's host, to be tried in turn.
        port: of the store.
        host: the host's name, for people.
        host_key: tells hosts of the same name apart.
        pid: rank 0's process id.
        posted: when, in seconds since the epoch.
    """

    nonce: str
    addresses: tuple[str, ...]
    port: int
    host: str
    host_key: str
    pid: int
    posted: float

    def __post_init__(self) -> None:
        must_be_in(PORTS, port=self.port)
        must_be_in(PIDS, pid=self.pid)

    @classmethod
    def here(cls, addresses: tuple[str, ...], port: int) -> PostedAddress:
        """A new notice of this process."""
        key, now = sockets.host_key(), time.time()
        name = socket.gethostname()
        return cls(uuid.uuid4().hex, addresses, port, name, key, os.getpid(), now)

    def __str__(self) -> str:
        age = max(0.0, time.time() - self.posted)
        return f"notice of pid {self.pid} on {printable(self.host)}, {age:.0f} s old{self._state()}"

    def _state(self) -> str:
        here = self.host_key == sockets.host_key()
        return ", a process that is gone" if here and processes.is_gone(self.pid) else ""


class AddressBoard(Protocol):
    """Where a notice can be posted and read."""

    place: str

    def own_addresses(self) -> tuple[str, ...]:
        """This host's addresses that the other ranks may reach."""

    def post(self, notice: PostedAddress) -> None:
        """Put up a notice in place of any other."""

    def read(self) -> PostedAddress | None:
        """The notice that is up now."""

    def take_down(self) -> None:
        """Take down the notice that this process posted, unless another one replaced it."""


class FileAddressBoard:
    """A file in a directory that all hosts share."""

    def __init__(self, path: str) -> None:
        self.place = path
        self._path = Path(path)
        self._posted: PostedAddress | None = None

    def own_addresses(self) -> tuple[str, ...]:
        return sockets.own_addresses()

    def post(self, notice: PostedAddress) -> None:
        self.read()  # Refuses a file that is not ours, rather than replace it.
        try:
            trusted_file.write(self._path, written(notice))
        except OSError as error:
            raise RendezvousError(
                f"cannot write the rendezvous file {self.place}: {error}"
            ) from error
        self._posted = notice

    def read(self) -> PostedAddress | None:
        try:
            text = trusted_file.read(self._path)
            return parsed(PostedAddress, text) if text else None  # Empty, as tempfile makes them.
        except FileNotFoundError:
            return None
        except trusted_file.UntrustedError as error:
            raise RendezvousError(f"the rendezvous file is not believed: {error}.") from error
        except (OSError, MalformedError) as error:
            raise self._not_ours(error) from error

    def _not_ours(self, error: Exception) -> RendezvousError:
        return RendezvousError(
            f"{self.place} exists and is no rendezvous file of allranks ({error}). Is it a stale "
            "one of torch's? Remove it, or name another file."
        )

    def take_down(self) -> None:
        with suppress(RendezvousError):
            if self._posted and self.read() == self._posted:
                self._path.unlink(missing_ok=True)


class AgentAddressBoard:
    """A key in the store that torchrun's agent keeps."""

    def __init__(self, store: dist.Store, host: str, port: int, key: str) -> None:
        self.place = f"torchrun's store at {host}:{port}"
        self._store = store
        self._agent = (host, port)
        self._key = key

    def own_addresses(self) -> tuple[str, ...]:
        own = sockets.address_towards(*self._agent)
        # The agent's host may know itself by a name that leads to loopback.
        return sockets.own_addresses() if sockets.is_loopback(own) else (own,)

    def post(self, notice: PostedAddress) -> None:
        self._store.set(self._key, written(notice))

    def read(self) -> PostedAddress | None:
        if not self._store.check([self._key]):
            return None
        return read(PostedAddress, self._store.get(self._key), self._key, self.place)

    def take_down(self) -> None:
        """Nothing to do: the agent's store goes with the agent."""


def reached(board: AddressBoard, call: Callable[[], T], deadline: Deadline) -> T:
    """What a board answers: a cut network, or a file system that hangs, holds nobody up."""
    try:
        return BackgroundCall(call).result(deadline.left)
    except StillRunning:
        raise RendezvousError(
            f"{board.place}, where rank 0 posts its address, did not answer within "
            f"{deadline.seconds:g} s; is the network cut, or the file system stuck?"
        ) from None
