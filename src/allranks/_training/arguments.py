"""What no call can take is refused, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from allranks._system.printable import brief_repr
from allranks.errors import ConfigError


def is_whole(value: object) -> bool:
    """Whether this is an integer, of Python or numpy, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(name: str, value: Any) -> int:
    """The value as an int.

    Raises:
        ConfigError: it is no integer, or negative.
    """
    if is_whole(value) and value >= 0:
        return int(value)
    raise ConfigError(f"{name}={brief_repr(value)}: expected an integer of at least 0")


def length_of(name: str, data: Any) -> int:
    """The number of samples: the value itself if it is a number, else its length.

    Raises:
        ConfigError: it is negative, or has no length.
    """
    if is_whole(data):
        return whole_number(name, data)
    try:
        return len(data)
    except Exception as error:
        raise ConfigError(
            f"{name}={brief_repr(data)}: expected a number of samples, or something that has a "
            f"length ({type(error).__name__}: {error})"
        ) from error


def check_keys(call: str, state: Any, keys: tuple[str, ...]) -> None:
    """Refuse what is no saved state with these keys.

    Raises:
        ConfigError: it is no mapping, or has other keys.
    """
    if isinstance(state, Mapping) and set(state) == set(keys):
        return
    found = sorted(map(str, state)) if isinstance(state, Mapping) else brief_repr(state)
    raise ConfigError(f"{call}: expected a dict with {', '.join(keys)}, not {found!s:.200}")
