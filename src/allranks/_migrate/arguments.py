"""What a function does with its parameters, as marks.

``of-parameter``: a collective is called on a parameter itself, or on a copy of it. ``own-group``:
one is called on a group that is no parameter. ``prints-parameters``: what is printed is just these.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from allranks._migrate.marks import dotted, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COPIES = ("clone", "detach", "contiguous", "cuda", "to", "float", "double", "cpu", "data")
"""Methods that give the same values again."""

MAKES = ("tensor", "as_tensor", "Tensor", "FloatTensor", "cast_data_device")
"""Functions that give their first argument's values again."""

ASKS = ("dist.get_rank", "dist.get_world_size", "dist.barrier", "dist.get_backend")
"""Functions whose first argument is a group."""


def marks_of_arguments(function: ast.AST, names: Mapping[str, str]) -> set[str]:
    """The marks of a function or a class.

    Args:
        function: the definition.
        names: what each name stands for, by the imports.
    """
    parameters = {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}
    calls = [one for one in ast.walk(function) if isinstance(one, ast.Call)]
    return set(_marks(calls, parameters, parameters | _copies(function, parameters), names))


def _marks(
    calls: list[ast.Call], parameters: set[str], same: set[str], names: Mapping[str, str]
) -> Iterator[str]:
    for call in calls:
        name = dotted(call.func, names)
        if name == "print" and call.args and all(_is_one_of(one, parameters) for one in call.args):
            yield "prints-parameters"
        if not place_of(name).startswith("dist."):
            continue
        if any(_is_same(one, same) for one in call.args):
            yield "of-parameter"
        if any(not _is_given(one, parameters, names) for one in _groups(call, place_of(name))):
            yield "own-group"


def _copies(function: ast.AST, parameters: set[str]) -> set[str]:
    """The variables that hold a parameter, or a copy of it."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _is_same(node.value, parameters | found):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
    return found


def _is_same(value: ast.AST, same: set[str]) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        if value.func.attr in COPIES:
            return _is_same(value.func.value, same)
        return value.func.attr in MAKES and bool(value.args) and _is_same(value.args[0], same)
    if isinstance(value, ast.Call):
        makes = isinstance(value.func, ast.Name) and value.func.id in MAKES
        return makes and bool(value.args) and _is_same(value.args[0], same)
    if isinstance(value, ast.Attribute) and value.attr in COPIES:
        return _is_same(value.value, same)
    return _is_one_of(value, same)


def _is_one_of(value: ast.AST, names: set[str]) -> bool:
    inner = value.value if isinstance(value, ast.Starred) else value
    return isinstance(inner, ast.Name) and inner.id in names


def _groups(call: ast.Call, mark: str) -> Iterator[ast.AST]:
    """The arguments of a call that are groups."""
    for keyword in call.keywords:
        if keyword.arg in ("group", "process_group"):
            yield keyword.value
    for position, one in enumerate(call.args):
        last = getattr(one, "attr", getattr(one, "id", ""))
        if (position == 0 and mark in ASKS) or "group" in str(last).lower():
            yield one


def _is_given(group: ast.AST, parameters: set[str], names: Mapping[str, str]) -> bool:
    """Whether a group comes from the caller, or is that of all ranks."""
    if isinstance(group, ast.Constant) and group.value is None:
        return True
    return _is_one_of(group, parameters) or dotted(group, names).endswith(".WORLD")
