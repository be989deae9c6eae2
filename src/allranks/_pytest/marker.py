"""What ``@pytest.mark.ranks`` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MARKER = (
    "ranks(size, ..., timeout=30, setup=True): run the test on so many ranks, each a fresh "
    "process; setup=False leaves it to the test to bring the process group up"
)

SIZE = "_world_size_of_ranks"
"""The fixture by which a test is parametrised by world size."""

collected_as = pytest.StashKey[str]()
"""An item's name as it was collected: pytest-xdist may add a group's."""


@dataclass(frozen=True)
class RanksMarker:
    """A marker's meaning.

    Attributes:
        sizes: the world sizes to run the test with, one at least.
        timeout: seconds that one run may take; None for the session's default.
        setup: whether the process group is brought up for the test.
    """

    sizes: tuple[int, ...]
    timeout: float | None = None
    setup: bool = True


def read(mark: pytest.Mark) -> RanksMarker:
    """What a marker asks for.

    Raises:
        ConfigError: it makes no sense.
    """
    unknown = sorted(set(mark.kwargs) - {"timeout", "setup"})
    if unknown:
        known = "it takes timeout= and setup="
        raise ConfigError(f"{shown(mark)}: unknown argument {unknown[0]!r}; {known}")
    if not mark.args or not all(map(_is_size, mark.args)) or _repeated(mark.args):
        raise ConfigError(
            f"{shown(mark)}: expected one world size or several different ones, integers of at "
            "least 1, as in @pytest.mark.ranks(2) or @pytest.mark.ranks(1, 2, 4)"
        )
    timeout = mark.kwargs.get("timeout")
    if timeout is not None and not _is_positive(timeout):
        raise ConfigError(f"{shown(mark)}: timeout must be a number of seconds above 0")
    setup = mark.kwargs.get("setup", True)
    if not isinstance(setup, bool):
        raise ConfigError(f"{shown(mark)}: setup must be True or False")
    return RanksMarker(mark.args, timeout, setup)


def shown(mark: pytest.Mark) -> str:
    """A marker as it stands in the source."""
    arguments = [*map(repr, mark.args), *(f"{k}={v!r}" for k, v in mark.kwargs.items())]
    return f"@pytest.mark.ranks({', '.join(arguments)})"


def label(size: int) -> str:
    """A world size as part of a test's name."""
    return f"{size} rank" if size == 1 else f"{size} ranks"


def seconds(text: str) -> float:
    """The session's default deadline.

    Raises:
        ConfigError: the text is no positive number.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not _is_positive(value):
        raise ConfigError(f"ranks_timeout = {text}: expected a number of seconds above 0")
    return value


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _repeated(sizes: Sequence[int]) -> bool:
    return len(set(sizes)) < len(sizes)


def _is_positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < float("inf")


def names(ranks: Iterable[int]) -> str:
    """Ranks for people: ``rank 1``, ``ranks 0, 2, 3``."""
    listed = sorted(ranks)
    return f"rank{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}"
