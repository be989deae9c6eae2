"""What comes from outside (a store, a file, the environment) as checked types, in one place.

Everything that travels so is JSON. Whoever wrote it may be of another release, or no rank at all.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")

_decoders: dict[Any, Any] = {}
_making = threading.Lock()


def _forget_the_lock() -> None:
    """Another thread may have held it at the fork."""
    global _making  # noqa: PLW0603 - of this process
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_lock)

PORTS, PIDS, RANKS = range(1, 2**16), range(1, 2**31), range(2**31)
"""What the system takes for a port or a process id, and the ranks that a world can have."""

SHOWN = 80
"""How many characters of what cannot be read an error shows."""


class MalformedError(ValueError):
    """What came from outside is not what was expected: why, and how it begins."""


def parsed(kind: type[T], text: bytes | str) -> T:
    """An object of this type, with all its fields of their types; others are ignored.

    Args:
        kind: a type: a dataclass, a tuple of types, a union, and so on.
        text: JSON.

    Raises:
        MalformedError: it is no JSON, or JSON of something else.
    """
    import msgspec

    try:
        value: T = _decoder(kind).decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        start = repr(text[:SHOWN])
        raise MalformedError(f"{error}: {start}{'...' if len(text) > SHOWN else ''}") from error
    return value


def _decoder(kind: Any) -> Any:
    """What decodes a type; msgspec crashes where two threads are the first to need one type."""
    import msgspec

    with _making:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def must_be_in(allowed: range, **numbers: int) -> None:
    """Refuse numbers that nobody can have, before a call of the system is given them.

    JSON has numbers of any size. A dataclass that ``parsed`` makes asks this after it is made;
    limits in its annotations would make all of allranks import msgspec at once.

    Args:
        allowed: the numbers that there are.
        numbers: those that were told, by name.

    Raises:
        MalformedError: one of them is not allowed.
    """
    for name, number in numbers.items():
        if number not in allowed:
            raise MalformedError(f"`{name}` is not in {allowed[0]}-{allowed[-1]}")


def written(value: Any) -> str:
    """What ``parsed`` reads; what no other rank could read becomes question marks."""
    if not is_dataclass(value) or isinstance(value, type):
        return json.dumps(value, ensure_ascii=False).encode(errors="replace").decode()
    import msgspec

    try:
        return msgspec.json.encode(value).decode()  # Much faster, and cannot write everything.
    except (UnicodeEncodeError, OverflowError):
        return written(asdict(value))


def plain(text: str) -> str:
    """A variable's value, with bytes that are no UTF-8 shown as escapes."""
    if text.isascii():
        return text
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
