"""Blocks of the page of settings and variables, from the docstring of ``setup`` and the code."""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import allranks
from allranks._process_group.settings import DEFAULT_STALL_AFTER, KNOWN, Settings
from allranks._system import variables
from markdown_table import table

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTING = re.compile(r"^\* (\w+) \((.+?)\): (.+?)(?=^\* |\Z)", re.MULTILINE | re.DOTALL)
"""A line of the docstring: a name, what it takes, and what it does."""

VARIABLE = re.compile(r"ALLRANKS_[A-Z_]+")

SECONDS = {"minutes": 60, "seconds": 1}


def settings() -> str:
    """Each setting: what it takes, its default, its variable, and what it does."""
    found = {name: (takes, text) for name, takes, text in SETTING.findall(told_by_setup())}
    if tuple(found) != KNOWN:
        raise ValueError(f"the docstring of setup has {[*found]}, and it takes {KNOWN}")
    return table(("setting", "takes", "default", "variable", "what it does"), *_rows(found))


def told_by_setup() -> str:
    """The settings, as the docstring of ``setup`` lists them."""
    text = inspect.getdoc(allranks.setup) or ""
    listed = text.partition("All are optional:\n")[2].partition("\nRaises:")[0]
    return inspect.cleandoc(listed)


def _rows(found: dict[str, tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    for name, (takes, text) in found.items():
        what = " ".join(text.replace("``", "`").split())
        variable = VARIABLE.search(what)
        shown = f"`{variable[0]}`" if variable else ""
        kind = takes.partition("; default")[0]
        yield f"`{name}`", kind, default(name, kind), shown, _capital(what)


def default(name: str, takes: str) -> str:
    """What holds where nobody says it; of a time, how many of the unit that a number is in."""
    value = DEFAULT_STALL_AFTER if name == "stall_after" else getattr(Settings(), name)
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / SECONDS[takes.partition(',')[0]]:g}"
    return f"`{value}`"


def environment(which: str) -> str:
    """A table of variables, and what each does.

    Args:
        which: the name of a table in ``_system/variables.py``.
    """
    told = getattr(variables, which.upper())
    alike = {text: [f"`{name}`" for name in told if told[name] == text] for text in told.values()}
    rows = ((", ".join(names), text) for text, names in alike.items())
    return table(("variable", "what it does"), *rows)


def _capital(text: str) -> str:
    return text if text.startswith(("`", '"')) else text[0].upper() + text[1:]
