"""A file's text by its syntax tree: where a node stands, and what it is once parts are changed."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.marks import Function
from allranks._migrate.reading import BYTE_ORDER_MARK, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allranks._migrate.reading import Module

SAFE = (
    ast.stmt,
    ast.Call,
    ast.keyword,
    ast.BoolOp,
    ast.IfExp,
    ast.FormattedValue,
    ast.Tuple,
    ast.List,
    ast.Dict,
)
"""What an expression with operators can be a part of without parentheses."""

NOWHERE = (-1, -1)
"""The span of what is not found in the text."""

LONGEST = 50
"""Letters of a call that is shown with its arguments."""


class Change(NamedTuple):
    """Something to write in a file.

    Attributes:
        line: where it begins.
        old: what is there.
        new: what to write; "" for nothing at all, where the line can be deleted.
        by_hand: why ``new`` is only an example of what to write; "" if it is what to write.
        shown: what is there, for people: long arguments are left out.
        shown_new: what to write, for people.
        span: the first byte, and the one after the last.
    """

    line: int
    old: str
    new: str
    by_hand: str = ""
    shown: str = ""
    shown_new: str = ""
    span: tuple[int, int] = (0, 0)


class Text:
    """A file's text, of which some parts are to be changed.

    Attributes:
        parents: of each node the one that it is a part of.
        changes: what is to be changed, inner parts first.
    """

    def __init__(self, module: Module) -> None:
        self.tree = module.tree
        lines = lines_of(module.source.removeprefix(BYTE_ORDER_MARK))
        self.bytes = "".join(lines).encode()
        self.starts = [0]  # The first byte of each line.
        for line in lines:
            self.starts.append(self.starts[-1] + len(line.encode()))
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }
        self.changes: list[Change] = []
        self._given: dict[ast.AST, set[str]] = {}

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The first byte of a node, and the one after its last."""
        place: ast.expr = node  # type: ignore[assignment]
        end = self.starts[(place.end_lineno or 1) - 1] + (place.end_col_offset or 0)
        return self.starts[place.lineno - 1] + place.col_offset, end

    def of(self, node: ast.AST) -> str:
        """The text of a node as it is."""
        start, end = self.span(node)
        return self.bytes[start:end].decode()

    def changed(self, node: ast.AST) -> str:
        """The text of a node with the changes within it."""
        start, end = self.span(node)
        parts, at = [], start
        for change in sorted(self.changes, key=lambda one: one.span):
            first, last = change.span
            if at <= first and last <= end and not change.by_hand:
                parts += [self.bytes[at:first], change.new.encode()]
                at = last
        return b"".join([*parts, self.bytes[at:end]]).decode()

    def change(self, node: ast.AST, new: str, by_hand: str = "", *, atom: bool = True) -> None:
        """Write something in the place of a node, and of the changes within it."""
        parent = self.parents[node]
        negated = isinstance(parent, ast.UnaryOp) and isinstance(parent.op, ast.Not)
        wrapped = new if atom or negated or isinstance(parent, SAFE) else f"({new})"
        if not _is_there(node, self.of(node)):
            old = ast.unparse(node)
            self.changes.append(Change(_line(node), old, wrapped, by_hand, old, wrapped, NOWHERE))
            return
        old = self.of(node)
        shown, shown_new = _short(old, node, self), _short_new(old, wrapped, node, self)
        self._put(Change(_line(node), old, wrapped, by_hand, shown, shown_new, self.span(node)))

    def rename(self, node: ast.expr, call: ast.Call, new: str) -> None:
        """Call something else with the same arguments."""
        arguments = self.of(call)[len(self.of(node)) :]
        few = "\n" not in arguments and len(arguments) <= LONGEST
        shown = arguments if few and arguments == self.changed(call)[-len(arguments) :] else "(...)"
        old = self.of(node)
        words = (f"{old}{shown}", f"{new}{shown}")
        self._put(Change(_line(node), old, new, "", *words, self.span(node)))

    def delete(self, statement: ast.stmt, why: str) -> None:
        """Delete a statement."""
        old = self.of(statement)
        shown = _short(old, statement, self)
        call = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(call, ast.Call) and call.args and shown != old:
            shown = f"{self.of(call.func)}({self.of(call.args[0])}, ...)"
        self._put(Change(_line(statement), old, "", "", shown, why, self.span(statement)))

    def _put(self, change: Change) -> None:
        first, last = change.span
        inner = [one for one in self.changes if first <= one.span[0] and one.span[1] <= last]
        replaced = [] if change.by_hand else inner
        self.changes = [*(one for one in self.changes if one not in replaced), change]

    def call_of(self, node: ast.AST) -> ast.Call | None:
        """The call of what a node names, if it is called."""
        outer = self.parents.get(node)
        return outer if isinstance(outer, ast.Call) and outer.func is node else None

    def statement_of(self, call: ast.Call) -> ast.stmt | None:
        """The statement whose whole value a call is, if nothing else stands on its lines."""
        outer = self.parents[call]
        whole = isinstance(outer, ast.stmt) and getattr(outer, "value", None) is call
        return outer if whole and isinstance(outer, ast.stmt) and self.is_alone(outer) else None

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node is a part of, from the innermost to the whole file."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def is_hidden(self, name: str, node: ast.AST) -> bool:
        """Whether a function around a node gives this name to something else."""
        return any(
            isinstance(one, Function | ast.Lambda) and name in self._given_in(one)
            for one in self.above(node)
        )

    def _given_in(self, function: ast.AST) -> set[str]:
        if function not in self._given:
            self._given[function] = _given(function)
        return self._given[function]

    def is_alone(self, statement: ast.AST) -> bool:
        """Whether nothing else stands on a statement's lines."""
        start, end = self.span(statement)
        before = self.bytes[:start].rpartition(b"\n")[2]
        after = self.bytes[end:].partition(b"\n")[0]
        return not before.strip() and not after.partition(b"#")[0].strip()

    def indented(self, statement: ast.AST, text: str) -> str:
        """Lines to put in a statement's place, as deep as it stands."""
        start, _ = self.span(statement)
        return text.replace("\n", "\n" + self.bytes[:start].rpartition(b"\n")[2].decode())


def _is_there(node: ast.AST, text: str) -> bool:
    """Whether a text is a node's: within some f-strings, older Pythons tell a wrong place."""
    if not isinstance(node, ast.expr):
        return True
    try:
        return ast.dump(ast.parse(f"({text})", mode="eval").body) == ast.dump(node)
    except (SyntaxError, ValueError):
        return False


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _given(function: ast.AST) -> set[str]:
    stored = {
        one.id
        for one in ast.walk(function)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }
    return stored | {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}


def _short(old: str, node: ast.AST, text: Text) -> str:
    """What is there on one line: a call that is long is shown without its arguments."""
    if len(old) <= LONGEST and "\n" not in old:
        return old
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
    if calls:
        start = text.of(calls[0])
        return f"{old.partition(start)[0]}{text.of(calls[0].func)}(...)"
    return old.splitlines()[0] + (" ..." if "\n" in old else "")


def _short_new(old: str, new: str, node: ast.AST, text: Text) -> str:
    """What to write, with ... for arguments that are too long to be shown."""
    for call in [one for one in ast.walk(node) if isinstance(one, ast.Call)][:1]:
        for one in [*call.args, *(each.value for each in call.keywords)]:
            argument = text.changed(one)
            if "\n" in argument or (len(old) > LONGEST and len(argument) > LONGEST):
                new = new.replace(argument, "...")
    return new
