"""What to write where a function that goes is called: its line with the arguments of this call."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.attributes import parameters_of
from allranks._migrate.marks import Function

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLACE = re.compile(r"__argument_(\d+)__")

ATOMS = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.List, ast.Dict)
"""Expressions that need no parentheses, wherever they stand."""


class Written(NamedTuple):
    """What to write.

    Attributes:
        text: the lines.
        same: whether only the function's name changes, and its arguments stay.
        whole: whether it takes the place of the whole statement, and not of the call alone.
        atom: whether it can stand in any expression without parentheses.
    """

    text: str
    same: bool
    whole: bool
    atom: bool


class _Arguments(NamedTuple):
    """A call's arguments, by the function's parameters."""

    named: dict[str, ast.expr | None]
    more: list[ast.expr]
    keywords: list[ast.keyword]


def of_reference(body: str, node: ast.AST) -> str:
    """What to write for a function that is named and not called, or "" if there is no such name."""
    if not isinstance(node, Function):
        return body
    expression = _expression(ast.parse(body).body)
    if not isinstance(expression, ast.Call):
        return ""
    given = [ast.unparse(one) for one in expression.args]
    given += [ast.unparse(one) for one in expression.keywords]
    taken = [*parameters_of(node), *(f"{one.arg}={one.arg}" for one in node.args.kwonlyargs)]
    taken += [f"*{node.args.vararg.arg}"] if node.args.vararg else []
    taken += [f"**{node.args.kwarg.arg}"] if node.args.kwarg else []
    alike = [one.partition("=")[2] or one for one in given] == taken or not given
    return ast.unparse(expression.func) if alike else ""


def of_call(
    body: str,
    function: Function,
    call: ast.Call,
    statement: ast.stmt | None,
    text_of: Callable[[ast.AST], str],
) -> Written | None:
    """What to write for a call; None if a person has to.

    Args:
        body: what can stand in the place of the function's body.
        function: its definition.
        call: where it is called.
        statement: the one whose whole value the call is; None if it is part of something else.
        text_of: gives the text of a part of the file.
    """
    arguments = _bound(function, call)
    if arguments is None:
        return None
    inserted: list[tuple[ast.expr, bool]] = []
    tree = _Insert(arguments, inserted).visit(ast.parse(body))
    given = {*ast.walk(call)}  # What is not among these is a default, of another file.
    texts = [
        _in_place(text_of(one) if one in given else ast.unparse(one), one, free=free)
        for one, free in inserted
    ]
    expression = _expression(tree.body)
    if expression is not None:
        filled = _filled(ast.unparse(expression), texts)
        same = _is_same(expression, call, [one for one, _ in inserted])
        return Written(filled, same, whole=False, atom=isinstance(expression, ATOMS))
    lines = _statements(tree.body, statement, call, text_of)
    return Written(_filled(lines, texts), same=False, whole=True, atom=True) if lines else None


def _expression(body: list[ast.stmt]) -> ast.expr | None:
    """The expression that a body is, if it is one, or what its ``with`` is about."""
    (first, *more) = body
    if more:
        return None
    if isinstance(first, ast.Return | ast.Expr):
        return first.value
    inner = first.body[0] if isinstance(first, ast.With) else None
    yields = isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Yield)
    return first.items[0].context_expr if yields and isinstance(first, ast.With) else None


def _statements(
    body: list[ast.stmt],
    statement: ast.stmt | None,
    call: ast.Call,
    text_of: Callable[[ast.AST], str],
) -> str | None:
    """A body's statements, of which the last gives its value to what the call's value is given."""
    if statement is None:
        return None
    before, _, after = text_of(statement).partition(text_of(call))
    returned = [_value_of(one) for one in body]
    if after.strip() or (before and returned[-1] is None):
        return None
    lines = [_line(one, before) for one in body]
    return None if None in lines else "\n".join(one for one in lines if one)


def _value_of(statement: ast.stmt) -> ast.expr | None:
    if isinstance(statement, ast.With | ast.If):
        return _value_of(statement.body[-1])
    return statement.value if isinstance(statement, ast.Return) else None


def _line(statement: ast.stmt, before: str) -> str | None:
    """A statement on one line, with what stands before the call where it returns something."""
    if isinstance(statement, ast.With | ast.If):
        inner = _line(statement.body[0], before) if len(statement.body) == 1 else None
        return inner and f"{ast.unparse(statement).splitlines()[0]} {inner}"
    value = _value_of(statement)
    return f"{before}{ast.unparse(value)}" if value else ast.unparse(statement)


def _bound(function: Function, call: ast.Call) -> _Arguments | None:
    """The arguments by the parameters that they are for; None where stars hide which."""
    taken = parameters_of(function)
    stars = any(isinstance(one, ast.Starred) for one in call.args)
    stars = stars or any(one.arg is None for one in call.keywords)
    if stars and taken:
        return None
    named: dict[str, ast.expr | None] = dict(_defaults(function))
    named.update(zip(taken, call.args, strict=False))
    more = call.args[len(taken) :]
    named.update({one.arg: one.value for one in call.keywords if one.arg in named})
    rest = [one for one in call.keywords if one.arg not in named]
    too_much = (more and not function.args.vararg) or (rest and not function.args.kwarg)
    return None if too_much else _Arguments(named, more, rest)


def _defaults(function: Function) -> Iterator[tuple[str, ast.expr | None]]:
    """Each parameter with its default, or None where that is None or there is none."""
    taken = [*function.args.posonlyargs, *function.args.args]
    without = [None] * (len(taken) - len(function.args.defaults))
    defaults = [*without, *function.args.defaults, *function.args.kw_defaults]
    for one, value in zip([*taken, *function.args.kwonlyargs], defaults, strict=True):
        yield one.arg, None if _is_none(value) else value


def _is_none(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


class _Insert(ast.NodeTransformer):
    """Puts places for the arguments of a call where a body has its parameters."""

    def __init__(self, arguments: _Arguments, inserted: list[tuple[ast.expr, bool]]) -> None:
        self.arguments = arguments
        self.inserted = inserted

    def visit_Call(self, node: ast.Call) -> ast.Call:
        """Arguments, which need no parentheses; those that were left out stay out."""
        args: list[ast.expr] = []
        for one in node.args:
            args += self._arguments_for(one)
        keywords: list[ast.keyword] = []
        for keyword in node.keywords:
            keywords += self._keywords_for(keyword)
        return ast.Call(self.visit(node.func), args, keywords)

    def _arguments_for(self, one: ast.expr) -> list[ast.expr]:
        if isinstance(one, ast.Starred):
            return [self._place(more, free=True) for more in self.arguments.more]
        if isinstance(one, ast.Name) and one.id in self.arguments.named:
            given = self.arguments.named[one.id]
            return [] if given is None else [self._place(given, free=True)]
        return [self.visit(one)]

    def _keywords_for(self, one: ast.keyword) -> list[ast.keyword]:
        if one.arg is None:
            rest = self.arguments.keywords
            return [ast.keyword(more.arg, self._place(more.value, free=True)) for more in rest]
        return [ast.keyword(one.arg, value) for value in self._arguments_for(one.value)]

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """A question whether an argument is None is answered where it was left out."""
        test = node.test
        asked = test.left if isinstance(test, ast.Compare) else None
        if isinstance(asked, ast.Name) and self.arguments.named.get(asked.id, asked) is None:
            return self.visit(node.body)  # type: ignore[no-any-return]
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A parameter within some expression."""
        given = self.arguments.named.get(node.id)
        if given is not None:
            return self._place(given, free=False)
        return ast.Constant(None) if node.id in self.arguments.named else node

    def _place(self, given: ast.expr, *, free: bool) -> ast.Name:
        self.inserted.append((given, free))
        return ast.Name(f"__argument_{len(self.inserted) - 1}__", ast.Load())


def _in_place(text: str, node: ast.expr, *, free: bool) -> str:
    return text if free or isinstance(node, ATOMS) else f"({text})"


def _filled(text: str, texts: list[str]) -> str:
    return PLACE.sub(lambda found: texts[int(found[1])], text)


def _is_same(expression: ast.expr, call: ast.Call, inserted: list[ast.expr]) -> bool:
    """Whether the arguments are those of the call, in the same order and by the same names."""
    if not isinstance(expression, ast.Call):
        return False
    values = [*expression.args, *(one.value for one in expression.keywords)]
    places = [PLACE.fullmatch(getattr(one, "id", "")) for one in values]
    given = [inserted[int(one[1])] for one in places if one]
    theirs = [*call.args, *(one.value for one in call.keywords)]
    names = [one.arg for one in expression.keywords] == [one.arg for one in call.keywords]
    return all(places) and given == theirs and names
