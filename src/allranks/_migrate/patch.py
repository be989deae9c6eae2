"""A patch for review: the body of each function that is recognised becomes a call of ours."""

from __future__ import annotations

import ast
import difflib
import re
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.reading import BYTE_ORDER_MARK, lines_of
from allranks._migrate.recognise import beside, is_named_otherwise, unusual_calls
from allranks._migrate.row import has

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from allranks._migrate.reading import Found, Module
    from allranks._migrate.recognise import Recognition
    from allranks._migrate.row import Row

ATTRIBUTES = {
    "rank": "allranks.get_rank()",
    "global_rank": "allranks.get_rank()",
    "world_size": "allranks.get_world_size()",
    "gpu": "allranks.get_local_rank()",
    "local_rank": "allranks.get_local_rank()",
    "device": "allranks.get_device_for_local_rank()",
    "distributed": "allranks.get_world_size() > 1",
    "dist_backend": "",
    "dist_url": "",
}
"""What set-up functions leave on their arguments, and what it is; "" where nobody reads it."""

LOST = "call.*seed*|call.basicConfig|call.addHandler|call.makedirs|call.mkdir"
"""What a body may do beside that one line of ours would lose: a person decides."""

PLACE = re.compile(r"\{(\?)?(?:(\w+):)?([@*]*[\w|]*)(?:=([^{}]*))?\}")
"""A place in a template; ``patch_of`` says what each is."""


class _Unfilled(Exception):  # noqa: N818 - it is no error
    """A template has a place that this function has nothing for."""


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


def patch_of(one: Recognition, names: Mapping[str, str]) -> str | None:
    """The body to put in the place of a function's, or None where a person has to write it.

    In a template, ``{data|0}`` is the first of these parameters that there is (0 is the first of
    all), ``{dst=0}`` has a default, ``{?dst}`` becomes ``, dst=dst`` or nothing, ``{?dst:to}``
    becomes ``, dst=to``, and ``{**kwargs}`` hands on what the function takes so.
    ``{@mean}`` is whether the body divides, ``{@returns}`` the word if it returns, ``{@torch}`` the
    name of torch here, and ``{@attributes}`` sets what the body set on its first parameter. A line
    that begins with ``?mark`` is there if the body has that mark, and with ``?!mark`` if not.
    """
    if one.row is None or one.found is None or _needs_a_person(one, one.row, one.found):
        return None
    for template in one.row.patch:
        body = _filled(template, one, names)
        if body:
            return body
    return None


def _needs_a_person(one: Recognition, row: Row, found: Found) -> bool:
    """Whether a line of ours might lose what the body does."""
    if beside(row, found) or (one.known_by == "body" and is_named_otherwise(found)):
        return True
    if "seed" not in row.ours and has(found.direct, LOST):
        return True
    if row.ours == "setup":
        return has(found.direct, "other.*")
    if row.ours in ("cleanup", "synchronize"):
        return bool(unusual_calls(found))
    of_data = row.ours in ("all_reduce", "all_gather", "broadcast") and row.kind == "function"
    return of_data and not has(found.marks, "of-parameter|pickle|loops")


def _filled(template: str, one: Recognition, names: Mapping[str, str]) -> str | None:
    assert one.found  # noqa: S101 - patch_of has asked
    assert one.row  # noqa: S101 - the same
    form = _Form(one.found, names)
    chosen = [line for text in template.split("\n") if (line := _if_so(text, one.found))]
    try:
        filled = "\n".join(PLACE.sub(form.fill, line) for line in chosen)
    except _Unfilled:
        return None
    unused = {*one.row.unused.split()}
    left = [name for name in form.parameters if _plain(name) not in form.used | unused]
    silent = "returns" in one.found.marks and not re.search(r"^ *return ", filled, re.MULTILINE)
    lines = [line for line in filled.split("\n") if line.strip()]
    return None if left or silent else _tidy("\n".join(lines))


def _if_so(line: str, found: Found) -> str:
    """A template's line, if its conditions hold."""
    if not line.startswith("?"):
        return line
    condition, _, rest = line[1:].partition(" ")
    wanted = not condition.startswith("!")
    holds = has(found.marks, condition.removeprefix("!")) is wanted
    return _if_so(rest, found) if holds else ""


def _tidy(text: str) -> str:
    return re.sub(r", (?=\))", "", text.replace("(, ", "("))


def _plain(parameter: str) -> str:
    return parameter.lstrip("*").partition("=")[0]


class _Form:
    """What a function has for the places of a template; it remembers which parameters were used."""

    def __init__(self, found: Found, names: Mapping[str, str]) -> None:
        self.found = found
        self.names = names
        bound = found.kind == "method" and not _is_static(found)
        self.parameters = found.parameters[1:] if bound else found.parameters
        self.used: set[str] = set()

    def fill(self, place: re.Match[str]) -> str:
        optional, key, wanted, default = place.groups()
        if wanted.startswith("@"):
            return self._fact(wanted[1:])
        if wanted.startswith("*"):
            return self._rest(wanted)
        name = self._parameter(wanted)
        if name:
            return f", {key or wanted}={name}" if optional else name
        if optional:
            return ""
        if default is None:
            raise _Unfilled
        return self._fact(default[1:]) if default.startswith("@") else default

    def _parameter(self, wanted: str) -> str:
        """The first parameter of these names, or at this place."""
        plain = [_plain(one) for one in self.parameters if not one.startswith("*")]
        for one in wanted.split("|"):
            name = plain[int(one)] if one.isdecimal() and int(one) < len(plain) else one
            if name in plain:
                self.used.add(name)
                return name
        return ""

    def _rest(self, wanted: str) -> str:
        """``*args`` or ``**kwargs``, however the function calls it; nothing if it has none."""
        stars = wanted.count("*")
        for one in self.parameters:
            if len(one) - len(one.lstrip("*")) == stars:
                self.used.add(_plain(one))
                return f", {one}"
        return ""

    def _fact(self, name: str) -> str:
        facts: dict[str, Callable[[], str]] = {
            "mean": lambda: str("divides" in self.found.marks),
            "returns": lambda: "return " if "returns" in self.found.marks else "",
            "torch": self._torch,
            "attributes": self._attributes,
        }
        return facts[name]()

    def _torch(self) -> str:
        for name, meant in self.names.items():
            if meant == "torch" and name not in self.parameters:
                return name
        raise _Unfilled

    def _attributes(self) -> str:
        if not self.found.sets:
            return ""
        if self.found.sets - ATTRIBUTES.keys():
            raise _Unfilled
        first = self.found.parameters[0]
        self.used.add(first)
        told = ((name, value) for name, value in ATTRIBUTES.items() if name in self.found.sets)
        return "\n".join(f"{first}.{name} = {value}" for name, value in told if value)


def _is_static(found: Found) -> bool:
    return any("staticmethod" in ast.unparse(one) for one in found.node.decorator_list)


def _edit(one: Recognition, module: Module, lines: Sequence[str], ending: str) -> _Edit | None:
    """The body's lines, and those to put in their place; what documents the function stays."""
    body = patch_of(one, module.names)
    if body is None or one.found is None:
        return None
    node = one.found.node
    documented = ast.get_docstring(node, clean=False) is not None
    first = node.body[1 if documented else 0]
    start = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]) - 1
    before = lines[start].encode()[: first.col_offset].decode()
    head = [] if not before.strip() else [before.rstrip() + ending]
    indent = before if not head else _indent(lines[node.lineno - 1]) + "    "
    new = [f"{indent}{text}{ending}" for text in body.split("\n")]
    return _Edit(start, node.end_lineno or 0, [*head, *new])


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
                first: list[int] = [
                    node.lineno,
                    *(d.lineno for d in getattr(node, "decorator_list", [])),
                ]
                return min(first) - 1
            break
        last = max(last, node.end_lineno or 0)
    shared = [one.end_lineno or 0 for one in tree.body if one.lineno <= last]
    return max([last, *shared])


def _with_end(line: str) -> str:
    return line if line.endswith(("\n", "\r")) else f"{line}\n\\ No newline at end of file\n"
