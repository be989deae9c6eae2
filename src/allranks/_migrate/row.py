"""The form of a row: what a function of the wild looks like, and what to write instead."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Row(NamedTuple):
    """One kind of function that repositories write for themselves.

    A requirement is a mark of ``marks``, or several with ``|`` between them, of which one is
    enough; ``*`` stands for any letters.

    Attributes:
        names: the names it goes by, with spaces between them; case and underscores do not count.
        ours: the name in allranks that stands for it; "" where nothing is needed any more.
        line: the line to write.
        differs: what changes for its callers; "" if nothing is known to.
        must: what its body has to have, beside one of the names.
        never: what its body must not have.
        alone: what a small body has to have so that it is known without a name; () if it never is.
        patch: bodies to put in its place, of which the first fits that has a use for every
            parameter; none if a person has to write it.
        unused: parameters that ours does without.
        kind: "function" (methods, too), "method" or "class".
        may: what else of ranks its body may have.
        like: the methods and properties of a class of ours that can take the place of one with no
            others, with the number of their arguments (``update/2``); "" if it cannot.
    """

    names: str
    ours: str
    line: str
    differs: str
    must: tuple[str, ...]
    never: str = ""
    alone: tuple[str, ...] = ()
    patch: tuple[str, ...] = ()
    unused: str = ""
    kind: str = "function"
    may: str = ""
    like: str = ""

    def is_called(self, name: str) -> bool:
        """Whether this is one of its names."""
        return plain(name) in map(plain, self.names.split())


def plain(name: str) -> str:
    """A name without what does not count in it."""
    return name.replace("_", "").lower()


def has(marks: Iterable[str], requirement: str) -> bool:
    """Whether one of the marks is what is required."""
    return any(fnmatchcase(mark, one) for one in requirement.split("|") for mark in marks)


def has_all(marks: Iterable[str], requirements: Iterable[str]) -> bool:
    """Whether each requirement is met by one of the marks."""
    return all(has(marks, one) for one in requirements)
