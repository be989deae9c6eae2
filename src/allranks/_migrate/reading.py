"""From a source to facts about each function and class in it; nothing of it is run."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.arguments import marks_of_arguments
from allranks._migrate.attributes import left_on
from allranks._migrate.marks import Function, dotted, marks_of, own_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ITS_OWN = (
    "returns",
    "silent",
    "yield",
    "nested",
    "method.",
    "takes.",
    "default.",
    "self.",
    "loops",
)
"""Marks of a function that those who call it do not get."""

BYTE_ORDER_MARK = "\ufeff"

LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""Lines with their ends, as Python's parser counts them."""


class NotReadError(Exception):
    """A source that is no Python; the text says why."""


class Found(NamedTuple):
    """A function, a method or a class, as its source has it.

    Attributes:
        name: with its class's before it, as in ``Meter.update``.
        kind: "function", "method" or "class".
        line: where its ``def`` or ``class`` stands.
        parameters: as they are written in a call: ``x``, ``*args``, ``key=key``, ``**more``.
        marks: what it does, and what the functions of the file do that it calls.
        direct: what it does itself.
        uses: the functions and classes of the file that it calls.
        size: how many statements it has.
        leaves: its parameters and the attributes that it sets on them, by itself or by another
            function of the file.
        node: the definition.
    """

    name: str
    kind: str
    line: int
    parameters: tuple[str, ...]
    marks: frozenset[str]
    direct: frozenset[str]
    uses: frozenset[str]
    size: int
    leaves: tuple[tuple[str, str], ...]
    node: Function | ast.ClassDef


class Module(NamedTuple):
    """A source, read.

    Attributes:
        source: its text.
        tree: its syntax tree.
        names: what each name stands for, by the imports.
        found: its functions, methods and classes, in their order.
        inline: the marks of what stands in no function, each with its first line.
    """

    source: str
    tree: ast.Module
    names: Mapping[str, str]
    found: tuple[Found, ...]
    inline: Mapping[str, int]


def read(content: bytes) -> Module:
    """The facts of a source.

    Args:
        content: the file's bytes, in the encoding that it declares.

    Raises:
        NotReadError: it is no Python.
    """
    try:
        source = _decoded(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in somebody's text is not our concern.
            tree = ast.parse(source.removeprefix(BYTE_ORDER_MARK))
        return _module(source, tree)
    except SyntaxError as error:
        raise NotReadError(f"line {error.lineno or 1}: {error.msg}") from error
    except (ValueError, LookupError) as error:
        raise NotReadError(str(error)) from error
    except (RecursionError, MemoryError) as error:
        raise NotReadError("it is nested too deeply") from error


def lines_of(source: str) -> list[str]:
    """The lines of a source with their ends, as the syntax tree counts them."""
    return LINES.findall(source)


def _decoded(content: bytes) -> str:
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return content.decode("utf-8" if encoding == "utf-8-sig" else encoding)  # Its mark is kept.


def _module(source: str, tree: ast.Module) -> Module:
    names = _imported(tree)
    definitions = list(_definitions(tree.body))
    direct = [_found(owner, node, names) for owner, node in definitions]
    inline = marks_of(_outside(tree.body), names)
    return Module(source, tree, names, tuple(_with_helpers(direct)), inline)


def _imported(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for; one from beside the file keeps its own last name."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                first = one.name.partition(".")[0]
                names[one.asname or first] = one.name if one.asname else first
        elif isinstance(node, ast.ImportFrom):
            before = node.module or "" if not node.level else f".{node.module or ''}"
            names.update({one.asname or one.name: f"{before}.{one.name}" for one in node.names})
    return names


def _definitions(
    body: Iterable[ast.AST], owner: str = ""
) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Definitions with the class they are in; also those in an ``if`` or ``try``."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef):
            yield owner, node
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{owner}{node.name}.")
        elif not isinstance(node, Function):
            yield from _definitions(ast.iter_child_nodes(node), owner)


def _outside(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """What stands in no function: statements without a definition, and the tests of others."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom):
            continue
        if any(isinstance(one, Function | ast.ClassDef) for one in ast.walk(node)):
            yield from _outside(ast.iter_child_nodes(node))
        else:
            yield node


def _found(owner: str, node: Function | ast.ClassDef, names: Mapping[str, str]) -> Found:
    kind = "class" if isinstance(node, ast.ClassDef) else "method" if owner else "function"
    parameters = () if isinstance(node, ast.ClassDef) else _parameters(node.args)
    own = _assigned(node)
    known = {name: told for name, told in names.items() if name not in own}
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    direct = {*marks_of(body, known), *_kind_marks(node, known)} | marks_of_arguments(node, known)
    uses = frozenset(_uses(body, owner))
    size = sum(isinstance(one, ast.stmt) for part in body for one in ast.walk(part))
    marks = frozenset(direct)
    marks |= {f"takes.{one.lstrip('*').partition('=')[0]}" for one in parameters}
    marks |= {f"default.{one}" for one in _defaults(node)}
    marks |= {f"self.{one}" for one in _sets(node) if kind == "method"}
    return Found(
        f"{owner}{node.name}", kind, node.lineno, parameters, marks, marks, uses, size, (), node
    )


def _kind_marks(node: Function | ast.ClassDef, names: Mapping[str, str]) -> set[str]:
    if not isinstance(node, ast.ClassDef):
        return own_marks(node, names)
    bases = (dotted(base, names).rpartition(".")[2] for base in node.bases)
    methods = (one.name for one in node.body if isinstance(one, Function))
    return {*(f"base.{one}" for one in bases if one), *(f"method.{one}" for one in methods)}


def _parameters(arguments: ast.arguments) -> tuple[str, ...]:
    """The parameters as a call would hand them on."""
    plain = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
    rest = [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    named = [f"{one.arg}={one.arg}" for one in arguments.kwonlyargs]
    more = [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return (*plain, *rest, *named, *more)


def _defaults(node: Function | ast.ClassDef) -> Iterator[str]:
    """The parameters whose default is a word."""
    if not isinstance(node, ast.ClassDef):
        plain = [*node.args.posonlyargs, *node.args.args]
        pairs = [
            *zip(reversed(plain), reversed(node.args.defaults), strict=False),
            *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
        ]
        for one, default in pairs:
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                yield one.arg


def _assigned(node: ast.AST) -> set[str]:
    """The names that a function gives to things of its own: an import's are hidden by them."""
    stored = {
        one.id
        for one in ast.walk(node)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    return stored | {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}


def _sets(node: Function | ast.ClassDef) -> frozenset[str]:
    """The attributes that a method sets on its object."""
    if isinstance(node, ast.ClassDef) or not (first := _parameters(node.args)[:1]):
        return frozenset()
    return frozenset(
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == first[0]
    )


def _uses(body: Iterable[ast.AST], owner: str) -> Iterator[str]:
    """The names that may be functions or classes of this file."""
    for part in body:
        for node in ast.walk(part):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node.id
            elif isinstance(node, ast.Attribute) and dotted(node.value, {}) in ("self", "cls"):
                yield f"{owner}{node.attr}"


def _with_helpers(direct: Sequence[Found]) -> Iterator[Found]:
    """Each with the marks of all that it calls in this file, however far."""
    by_name: dict[str, list[Found]] = {}
    for one in direct:
        by_name.setdefault(one.name, []).append(one)
    nodes = {one.name: one.node for one in direct if one.kind == "function"}
    for one in direct:
        seen, waiting = {one.name}, [one]
        marks = set(one.direct)
        while waiting:
            for name in waiting.pop().uses - seen:
                seen.add(name)
                waiting += by_name.get(name, [])
                marks |= {m for f in by_name.get(name, []) for m in f.direct if _travels(m)}
        uses = one.uses & by_name.keys() - {one.name}
        leaves = tuple(left_on(one.node, nodes))
        yield one._replace(marks=frozenset(marks), uses=uses, leaves=leaves)


def _travels(mark: str) -> bool:
    """Whether what a helper does is done by those who call it; what it returns is its own."""
    return not mark.startswith(ITS_OWN)
