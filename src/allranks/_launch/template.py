"""The warm template: a fresh process that holds torch, and forks the ranks of each order.

It is a process of its own, never a fork of the caller: whatever the caller has done with threads,
OpenMP or CUDA stays there. It stays single-threaded, sleeps while nothing is ordered, and ends
with its parent, however that ends, taking every rank along. Ranks are used once.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import threading
import weakref
from contextlib import suppress
from importlib import import_module, invalidate_caches
from typing import TYPE_CHECKING

from allranks._launch.rank_process import die_with_parent
from allranks._system import blas_threads, huge_pages, processes
from allranks._system.cpus import usable_cpus
from allranks._system.streams import opened_anew
from allranks.errors import AllranksError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PRELOADED = (
    "torch",
    "torch.distributed",
    "torch._dynamo",
    "allranks.distutils",
    "allranks._process_group.together",
    "allranks._process_group.host_groups",
    "allranks._rendezvous.file_backed_store",
)
"""What programs import. The first optimizer imports torch._dynamo, which costs each rank as much as
torch itself; the root of allranks imports its modules only when they are asked for."""

HEARD = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD))
"""The signals that the parent of ranks hears, and that a rank must not inherit."""

IGNORED = frozenset(
    signum for signum in HEARD - {signal.SIGCHLD} if signal.getsignal(signum) == signal.SIG_IGN
)
"""Those that were ignored when this process began, as nohup does: they stay so, in ranks too."""

SHOW_STACKS = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""Makes a rank write the Python stacks of its threads, even while C code holds the lock."""

MESSAGE = 65536

LOOK_EVERY = 1.0
"""Seconds between looks for the parent, where the system does not tell of its end."""


def preload(modules: Sequence[str] = PRELOADED) -> None:
    """Import what every rank needs, and leave no thread behind that a fork would lose.

    Args:
        modules: the names of the modules, torch first.

    Raises:
        AllranksError: a thread runs, so that forked ranks might hang.
    """
    gc.disable()  # An import makes no garbage worth the half second that looking for it takes.
    for name in modules:
        import_module(name)
    gc.enable()
    sys.modules["torch"].set_num_threads(1)  # A pool of OpenMP threads does not survive a fork.
    refuse_threads()
    blas_threads.find()
    _keep_finalizers_here()
    gc.freeze()  # Keeps the garbage collector from writing to the pages that the ranks share.


def _keep_finalizers_here() -> None:
    """Spare ranks the finalizers of what torch has imported (70 ms at each exit, measured)."""
    known: dict[weakref.finalize[..., object], object] = getattr(weakref.finalize, "_registry", {})
    for finalizer in known:
        finalizer.atexit = False


def refuse_threads() -> None:
    """Refuse to fork a process whose other threads may hold locks.

    Raises:
        AllranksError: a thread runs.
    """
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate()[1:])
        raise AllranksError(f"cannot fork while other threads run ({names})")


def become_a_fresh_process(ranks: int, streams: Sequence[int], *, keep_stdin: bool) -> None:
    """Undo, in a forked rank, what a fork shares and a fresh interpreter would not.

    Args:
        ranks: how many ranks share this host's cores.
        streams: where standard output and standard error go, as file descriptors.
        keep_stdin: whether this rank may read standard input.
    """
    import numpy as np
    import torch

    signal.set_wakeup_fd(-1)
    for signum in HEARD - IGNORED:
        handler = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(signum, handler)
    if not keep_stdin:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    sys.stdout = sys.__stdout__ = opened_anew(sys.stdout)  # type: ignore[misc]  # typed as final
    sys.stderr = sys.__stderr__ = opened_anew(sys.stderr)  # type: ignore[misc]
    np.random.seed()  # noqa: NPY002 - the global state, which all ranks would share
    torch.default_generator.seed()  # Python's own is sown anew at each fork.
    threads = threads_each(ranks)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    blas_threads.use(threads)


def threads_each(ranks: int) -> int:
    """The threads of each rank: what OMP_NUM_THREADS says, else a fair share of the CPUs."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    fair = int(usable_cpus() / ranks)
    return max(1, int(asked) if asked.isdecimal() else fair)


class TemplateServer:
    """The template's side: forks a rank at each order, and tells how it ended."""

    def __init__(
        self, control: socket.socket, body: Callable[[dict[str, int], list[int]], None], parent: int
    ) -> None:
        """Prepare to serve.

        Args:
            control: the connection to the parent, of packets.
            body: what a forked rank does with an order and the file descriptors beside it.
            parent: its process id; a fork of it may hold the connection when it is gone.
        """
        self._control = control
        self._parent = parent
        self._body = body
        self._ranks: dict[int, int] = {}

    def serve(self) -> None:
        """Serve until the parent closes the connection, or ends."""
        invalidate_caches()  # For each rank: the caller may write modules after this.
        woken, waker = socket.socketpair()
        waker.setblocking(False)  # noqa: FBT003 - the standard library's signature
        woken.setblocking(False)  # noqa: FBT003
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent decides.
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        import select

        scattered = huge_pages.candidates()
        heard: list[socket.socket | int] = [self._control, woken, *self._parents_end()]
        patience = None if len(heard) > 2 else LOOK_EVERY
        while os.getppid() == self._parent:
            idle = scattered and not self._ranks
            ready, _, _ = select.select(heard, [], [], 0 if idle else patience)
            if idle and not ready:
                huge_pages.collapse(scattered.pop())
            if woken in ready:
                with suppress(BlockingIOError):
                    woken.recv(MESSAGE)
            self._reap()
            if self._control in ready and not self._obey():
                break
        processes.end_sessions(self._ranks)

    def _parents_end(self) -> list[int]:
        """A descriptor by which the parent's end is heard, where there is one."""
        with suppress(ProcessLookupError):  # It is gone, and no longer this process's parent.
            descriptor = processes.opened(self._parent)
            return [] if descriptor is None else [descriptor]
        return []

    def _obey(self) -> bool:
        """Do what the parent asks; False when it is gone, and the template with it."""
        try:
            text, files, _, _ = socket.recv_fds(self._control, MESSAGE, 16)
        except ConnectionResetError:
            text, files = b"", []
        if not text:
            return False
        order = json.loads(text)
        if order["do"] == "signal":
            self._signal(order["signal"])
        else:
            self._fork(order, list(files))
        return True

    def _fork(self, order: dict[str, int], files: list[int]) -> None:
        """Fork a rank. The parent hears its pid at once: it may have to end the rank."""
        refuse_threads()
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            die_with_parent(template)
            self._control.close()
            self._body(order, files)
            os._exit(0)
        for file in files:
            os.close(file)
        self._ranks[pid] = order["rank"]
        self._tell(rank=order["rank"], pid=pid)

    def _reap(self) -> None:
        statuses = {pid: processes.status_of_child(pid) for pid in self._ranks}
        ended = {pid: status for pid, status in statuses.items() if status is not None}
        if ended:
            processes.end_sessions(ended)  # What the ranks have left running.
        for pid, status in ended.items():
            processes.reap(pid)
            self._tell(rank=self._ranks.pop(pid), status=status)

    def _tell(self, **facts: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(facts).encode())

    def _signal(self, signum: int) -> None:
        for pid in self._ranks:
            with suppress(ProcessLookupError, PermissionError):
                # Stacks are asked of the rank alone: its children would die of the signal.
                (os.kill if signum == SHOW_STACKS else os.killpg)(pid, signum)


def write_stacks_to(file: int) -> None:
    """From now on, write this process's Python stacks there when SHOW_STACKS comes."""
    faulthandler.register(SHOW_STACKS, file=file, all_threads=True, chain=False)


def control_from_arguments() -> socket.socket:
    """The connection to the parent, whose end is the template's end."""
    return socket.socket(fileno=int(sys.argv[-1]))


def parent_from_arguments() -> int:
    """The parent's process id."""
    return int(sys.argv[-2])
