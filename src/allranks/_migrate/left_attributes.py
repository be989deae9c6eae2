"""Where a project reads what its set-up function left on ``args``, and what to read instead."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from allranks._migrate.attributes import ATTRIBUTES, parameters_of, what_to_read
from allranks._migrate.marks import Function, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allranks._migrate.editing import Text
    from allranks._migrate.new_imports import Needs
    from allranks._migrate.recognise import Recognition

OPTIONS = ("rank", "world_size", "local_rank", "gpu", "dist_url", "dist_backend", "distributed")
"""Attributes of which an option of the command line has no use any more."""


class Attributes:
    """What set-up functions leave, and the names of what they leave it on."""

    def __init__(self) -> None:
        self.of: dict[str, set[str]] = {}
        self.options: set[str] = set()

    def learn(self, one: Recognition, call: ast.Call | None) -> None:
        """What a function leaves on its parameters, or on what it is given in a call."""
        if one.ours != "setup" or one.found is None or not isinstance(one.found.node, Function):
            return
        given = dict(zip(parameters_of(one.found.node), call.args if call else [], strict=False))
        for parameter, attribute in one.found.leaves:
            value = given.get(parameter)
            name = dotted(value, {}).rpartition(".")[2] if value else parameter
            if name not in ("", "self", "cls"):
                self.of.setdefault(name, set()).add(attribute)
        self.options |= _mentioned(one.found.node) & {*OPTIONS}

    def rewrite(
        self, text: Text, gone: Sequence[ast.AST], needs: Needs
    ) -> Iterator[tuple[int, str]]:
        """Write what to read instead; gives what could not be followed, with its lines."""
        for node in ast.walk(text.tree):
            if any(one in gone for one in text.above(node)):
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._read(text, node, node.value, node.attr, needs)
            elif isinstance(node, ast.Call) and dotted(node.func, {}) == "getattr":
                yield from self._asked(text, node, needs)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                self._option(text, node, node.value)

    def _read(self, text: Text, node: ast.expr, of: ast.expr, attribute: str, needs: Needs) -> None:
        if attribute not in self.of.get(dotted(of, {}).rpartition(".")[2], ()):
            return
        told = what_to_read(attribute)
        new = needs.with_torch(ATTRIBUTES.get(attribute, ""))
        why = "" if new else "the set-up function left it there"
        text.change(node, new or told, why, atom=">" not in new)
        needs.note(new)

    def _asked(self, text: Text, call: ast.Call, needs: Needs) -> Iterator[tuple[int, str]]:
        """``getattr(args, "rank", 0)``, and ``getattr(args, name)``, which is not followed."""
        name = dotted(call.args[0], {}) if call.args else ""
        if len(call.args) < 2 or name.rpartition(".")[2] not in self.of:
            return
        if isinstance(call.args[1], ast.Constant):
            self._read(text, call, call.args[0], str(call.args[1].value), needs)
        else:
            yield call.lineno, f"{text.of(call)}: which attribute it reads is not followed"

    def _option(self, text: Text, statement: ast.Expr, call: ast.Call) -> None:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "add_argument":
            return
        flags = [str(one.value) for one in call.args if isinstance(one, ast.Constant)]
        names = {one.lstrip("-").replace("-", "_") for one in flags if one.startswith("--")}
        if names & self.options and text.is_alone(statement):
            text.delete(statement, "(delete it, and from the commands that give it)")


def _mentioned(function: Function) -> set[str]:
    """The attributes of its parameters that a function sets or reads."""
    parameters = parameters_of(function)
    return {
        one.attr
        for one in ast.walk(function)
        if isinstance(one, ast.Attribute) and dotted(one.value, {}) in parameters
    }
