"""Slurm's short notations: ``rack[1-2]node[3-4]`` for hosts, ``2(x2),1`` for tasks per node."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LENGTH = 100_000
"""More hosts than any cluster has: a longer list is a mistake, and is not expanded."""

MAX_NAME = 255
"""More characters than a host's name may have (RFC 1035)."""

_PIECE = re.compile(r"[^][,\s]+|\[([^][]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_COUNT = re.compile(r"([0-9]{1,18})(?:\(x([1-9][0-9]{0,17})\))?")


def expand(text: str) -> list[str]:
    """Expand a list of hosts, in the order written, duplicates included.

    Args:
        text: the list as in SLURM_STEP_NODELIST, such as ``login,nid[0099-0101]-ib``.

    Returns:
        One name for each host.

    Raises:
        ValueError: the list is malformed, longer than 100,000 hosts, or a name in it longer than
            255 characters: what is wrong, and where.
    """
    entries = list(_entries(text))
    _check_length(text, sum(math.prod(map(_length, entry)) for entry in entries))
    _check_names(text, max(sum(map(_width, entry)) for entry in entries))
    return ["".join(host) for entry in entries for host in itertools.product(*map(_names, entry))]


def expand_counts(text: str) -> list[int]:
    """Expand numbers of tasks, one for each node: ``2(x2),1`` is 2, 2, 1.

    Args:
        text: the numbers as in SLURM_STEP_TASKS_PER_NODE.

    Returns:
        One number for each node.

    Raises:
        ValueError: the text is malformed, or longer than 100,000 nodes: what is wrong, and where.
    """
    parts = _parts(_COUNT, text, 0, text, "a count such as 2 or 2(x3)")
    runs = [(int(found[1]), int(found[2] or 1)) for _, found in parts]
    _check_length(text, sum(times for _, times in runs))
    return [count for count, times in runs for _ in range(times)]


class _NumberRange(NamedTuple):
    """Numbers as wide as ``text``, which is the first of them; or only ``text``."""

    text: str
    numbers: range | None = None


def _length(piece: list[_NumberRange]) -> int:
    return sum(1 if run.numbers is None else len(run.numbers) for run in piece)


def _width(piece: list[_NumberRange]) -> int:
    return max(len(run.text) for run in piece)


def _names(piece: list[_NumberRange]) -> Iterator[str]:
    for text, numbers in piece:
        if numbers is None:
            yield text
        else:
            yield from (f"{number:0{len(text)}d}" for number in numbers)


def _entries(text: str) -> Iterator[list[list[_NumberRange]]]:
    """The entries between the commas outside brackets, each a list of pieces."""
    position = 0
    while True:
        entry = []
        while found := _PIECE.match(text, position):
            entry.append(_piece(text, found))
            position = found.end()
        if not entry or text[position : position + 1] not in ("", ","):
            _fail(text, position, _unexpected(text[position : position + 1]))
        yield entry
        if position == len(text):
            return
        position += 1


def _unexpected(character: str) -> str:
    if character in ("[", "]"):
        return "a bracket without its partner"
    return "expected a host name or [numbers]"


def _piece(text: str, found: re.Match[str]) -> list[_NumberRange]:
    if found[1] is None:
        return [_NumberRange(found[0])]
    parts = _parts(_RANGE, text, found.start(1), found[1], "a number or a range such as 01-16")
    return [_range(text, position, part) for position, part in parts]


def _range(text: str, position: int, found: re.Match[str]) -> _NumberRange:
    low, high = found.groups()
    if high is None:
        return _NumberRange(low)
    if int(high) < int(low):
        _fail(text, position, f"the range {low}-{high} runs backwards")
    return _NumberRange(low, range(int(low), int(high) + 1))


def _parts(
    pattern: re.Pattern[str], text: str, position: int, inner: str, expected: str
) -> Iterator[tuple[int, re.Match[str]]]:
    """The parts between the commas of ``inner``, which starts at ``position`` of ``text``."""
    for part in inner.split(","):
        found = pattern.fullmatch(part)
        if found is None:
            _fail(text, position, f"expected {expected}")
        yield position, found
        position += len(part) + 1


def _check_names(text: str, longest: int) -> None:
    if longest > MAX_NAME:
        _fail(text, 0, f"a host's name in it has {longest} characters, more than {MAX_NAME}")


def _check_length(text: str, length: int) -> None:
    if length > MAX_LENGTH:
        _fail(text, 0, f"it stands for {length} hosts, more than {MAX_LENGTH}")


def _fail(text: str, position: int, problem: str) -> NoReturn:
    raise ValueError(f"malformed list {text!r:.120} at character {position}: {problem}")
