"""A patch for review: the body of each function that is recognised becomes a call of ours."""

from __future__ import annotations

import ast
import difflib
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.reading import BYTE_ORDER_MARK, lines_of
from allranks._migrate.recognise import HELPER, INLINE, NO_RANKS, RECOGNISED
from allranks._migrate.templates import NoBodyError, body_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allranks._migrate.reading import Found, Module
    from allranks._migrate.recognise import Recognition


class _Edit(NamedTuple):
    """Lines to put in the place of others, by their numbers from 0."""

    start: int
    end: int
    lines: list[str]


def patch(module: Module, recognised: Sequence[Recognition], name: str) -> str:
    """The unified diff that makes functions calls of ours; "" if there is nothing to change.

    Args:
        module: the file.
        recognised: what was recognised in it.
        name: the file's name, for the diff's head.
    """
    before = lines_of(module.source)
    after = patched(module, recognised)
    shown = difflib.unified_diff(before, lines_of(after), f"a/{name}", f"b/{name}")
    return "".join(map(_with_end, shown))


def patched(module: Module, recognised: Sequence[Recognition]) -> str:
    """The source with the bodies of the functions that have a patch replaced."""
    lines = lines_of(module.source)
    ending = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    edits = [edit for one in recognised if (edit := _edit(one, module, lines, ending))]
    if edits and not _is_imported(module.tree):
        at = _place_of_import(module.tree)
        mark = BYTE_ORDER_MARK if at == 0 and lines[0].startswith(BYTE_ORDER_MARK) else ""
        lines[0] = lines[0].removeprefix(mark)
        edits.append(_Edit(at, at, [f"{mark}import allranks{ending}"]))
    for edit in sorted(edits, reverse=True):
        lines[edit.start : edit.end] = edit.lines
    return "".join(lines)


def left_alone(module: Module, recognised: Sequence[Recognition]) -> list[str]:
    """What the patch leaves as it is and why, as comments that ``git apply`` passes over."""
    about = [one for one in recognised if one.status != NO_RANKS]
    told = [
        f"#   line {one.line}, {one.name}: {why}" for one in about if (why := _why(one, module))
    ]
    others = [one.name for one in recognised if one.status == NO_RANKS]
    if others:
        told.append(f"#   Not about ranks: {', '.join(others)}")
    return ["# Left as it is:", *told] if told else []


def _why(one: Recognition, module: Module) -> str:
    """Why a function stays; "" if it does not."""
    if one.status == HELPER:
        return f"{one.note}: delete it where that calls it no more"
    if one.status == INLINE:
        return f"it stands in no function: write {one.write} there"
    if one.status != RECOGNISED:
        return f"{one.status}: {one.note}"
    try:
        body_of(one, module.names)
    except NoBodyError as why:
        return f"{why}: {f'write {one.write}' if one.write else 'delete it with its calls'}"
    return ""


def _edit(one: Recognition, module: Module, lines: Sequence[str], ending: str) -> _Edit | None:
    """The lines of a function or a class, and those to put in their place."""
    if one.row is None or one.found is None:
        return None
    try:
        body = body_of(one, module.names)
    except NoBodyError:
        return None
    if one.row.kind == "class":
        return _edit_of_class(one.found, body, lines, ending)
    return _edit_of_function(one.found, body, lines, ending)


def _edit_of_class(found: Found, ours: str, lines: Sequence[str], ending: str) -> _Edit:
    """Another name for the class of ours."""
    start = min(_first_lines(found.node)) - 1
    name = found.name.rpartition(".")[2]
    line = f"{_indent(lines[start])}{name} = {ours}{ending}"
    return _Edit(start, found.node.end_lineno or 0, [line])


def _edit_of_function(found: Found, body: str, lines: Sequence[str], ending: str) -> _Edit:
    """Another body; what documents the function stays."""
    node = found.node
    documented = ast.get_docstring(node, clean=False) is not None
    first = node.body[1 if documented else 0]
    start = min(_first_lines(first)) - 1
    before = lines[start].encode()[: first.col_offset].decode()
    head = [] if not before.strip() else [before.rstrip() + ending]
    indent = before if not head else _indent(lines[node.lineno - 1]) + "    "
    new = [f"{indent}{text}{ending}" for text in body.split("\n")]
    return _Edit(start, node.end_lineno or 0, [*head, *new])


def _first_lines(node: ast.stmt) -> Iterator[int]:
    """The lines where a statement and its decorators begin."""
    yield node.lineno
    yield from (one.lineno for one in getattr(node, "decorator_list", []))


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _is_imported(tree: ast.Module) -> bool:
    imports = (one for one in tree.body if isinstance(one, ast.Import))
    return any(name.name == "allranks" and not name.asname for one in imports for name in one.names)


def _place_of_import(tree: ast.Module) -> int:
    """The number of the line before which our import goes: after the file's own first ones."""
    last = 0
    for position, node in enumerate(tree.body):
        documents = position == 0 and isinstance(node, ast.Expr)
        if not documents and not isinstance(node, ast.Import | ast.ImportFrom):
            if last == 0:
                return min(_first_lines(node)) - 1
            break
        last = max(last, node.end_lineno or 0)
    shared = [one.end_lineno or 0 for one in tree.body if one.lineno <= last]
    return max([last, *shared])


def _with_end(line: str) -> str:
    return line if line.endswith(("\n", "\r")) else f"{line}\n\\ No newline at end of file\n"
