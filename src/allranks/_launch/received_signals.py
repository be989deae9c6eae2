"""Signals that wake the loop of a parent, rather than interrupt it anywhere."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from allranks._launch.template import HEARD, IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from allranks._launch.pipes import Pipes


@contextmanager
def exit_at_interrupt() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process at once: an import may swallow KeyboardInterrupt.

    For a time in which there is nothing to clean up. An ignored signal stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    try:
        yield
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


@contextmanager
def received_signals(pipes: Pipes) -> Iterator[list[int]]:
    """Collect signals in a list, and wake whoever waits for the pipes at each.

    Who is impatient signals twice, and may meet us on our way out with the exit code of the first:
    after one of them that asks for the end, those are ignored for good.

    Args:
        pipes: wait for what comes.

    Yields:
        The signals that have come; whoever reacts to one may remove it.
    """
    owner = os.getpid()
    received: list[int] = []
    waker, woken = socket.socketpair()
    waker.setblocking(False)  # noqa: FBT003 - the standard library's signature
    woken.setblocking(False)  # noqa: FBT003 - the same
    pipes.listen(woken, _emptied)
    restore = _handle(received, waker)
    try:
        yield received
    finally:
        if os.getpid() == owner:  # A forked rank leaves through here too, and shares the pipes.
            restore()
            waker.close()
            pipes.ignore(woken)
            woken.close()


def _handle(received: list[int], waker: socket.socket) -> Callable[[], None]:
    """Handle signals from now on; the function that is returned ends that."""
    asked_to_end = False

    def receive(signum: int, _: object) -> None:
        nonlocal asked_to_end
        asked_to_end |= signum != signal.SIGCHLD
        received.append(signum)

    before = {signum: signal.signal(signum, receive) for signum in HEARD - IGNORED}
    wakeup = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

    def restore() -> None:
        signal.set_wakeup_fd(wakeup)
        for signum, handler in before.items():
            is_late = asked_to_end and signum != signal.SIGCHLD
            signal.signal(signum, signal.SIG_IGN if is_late else handler)

    return restore


def _emptied(woken: socket.socket) -> bool:
    with suppress(BlockingIOError):
        woken.recv(4096)
    return True
