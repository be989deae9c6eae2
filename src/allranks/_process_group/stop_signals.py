"""The signals by which a scheduler asks a job to stop, remembered until the ranks agree on it."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from allranks.errors import ConfigError

if TYPE_CHECKING:
    from types import FrameType

STOP = (signal.SIGTERM, signal.SIGUSR1)

_before: dict[int, Any] = {}
_received: list[int] = []


def listen() -> None:
    """From now on, remember these signals; a Python handler that was there still runs.

    Raises:
        ConfigError: this is not the main thread, which alone may handle signals.
    """
    if _before:
        return
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("should_stop: the first call must be made by the main thread")
    for signum in STOP:
        _before[signum] = signal.signal(signum, _remember)


def _remember(signum: int, frame: FrameType | None) -> None:
    _received.append(signum)
    if callable(_before.get(signum)):
        _before[signum](signum, frame)


def received() -> int:
    """The first of the signals that came; 0 while there is none."""
    return _received[0] if _received else 0


def restore() -> None:
    """Put back the handlers that were there before ``listen``, where they are still ours."""
    for signum, handler in _before.items():
        if signal.getsignal(signum) is _remember:
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    _before.clear()
    _received.clear()
