"""This interpreter, started anew, and where it looks for modules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ISOLATION = (("isolated", "-I"), ("ignore_environment", "-E"), ("no_user_site", "-s"))
"""What an interpreter was told not to believe, and how the next one is told."""


def command(code: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """The command line of a fresh interpreter that looks for modules where this one does.

    Python itself puts the working directory first for ``-c``, from which nothing may be imported
    before the code has its say.

    Args:
        code: what it runs, with no ``from __future__``.
        arguments: what follows in its ``sys.argv``.
        options: the interpreter's own, beside those that this one has.
    """
    options = [*options, *(option for name, option in ISOLATION if getattr(sys.flags, name))]
    if sys.version_info >= (3, 11):
        options.append("-P")  # From Python 3.13 on, -c itself imports linecache.
    places: list[object] = list(sys.path)
    path = ascii([place for place in places if isinstance(place, str)])  # As the import system.
    return [sys.executable, *options, "-c", f"import sys; sys.path[:] = {path}\n{code}", *arguments]


def has_safe_path() -> bool:
    """Whether Python was told not to look beside the script, nor in the working directory."""
    return bool(getattr(sys.flags, "safe_path", sys.flags.isolated))


def forget_first_place() -> None:
    """Look no longer beside this command's own script, where its user's would not look."""
    first = Path(sys.path[0]).absolute()
    if not has_safe_path() and first in (Path.cwd(), Path(sys.argv[0]).resolve().parent):
        del sys.path[0]
