"""What to write where a file uses what goes: calls, imports, and what was left on ``args``."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.editing import Change, Text
from allranks._migrate.left_attributes import Attributes
from allranks._migrate.marks import Function, dotted, marks_of
from allranks._migrate.new_imports import Needs, rewrite_imports
from allranks._migrate.project import Project, Source, Target, names_with_dots
from allranks._migrate.rewrite import of_call, of_reference
from allranks._migrate.templates import NoBodyError, body_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from allranks._migrate.recognise import Recognition

NOTHING = "(nothing: no longer needed)"


class Site(NamedTuple):
    """What there is to write in a file.

    Attributes:
        source: the file.
        changes: in the order of their lines.
        kept: what it uses of other files that hold helpers, and that does not go; with the lines.
        notes: what could not be followed, and what to look at; with the lines.
    """

    source: Source
    changes: list[Change]
    kept: list[tuple[Target, int]]
    notes: list[tuple[int, str]]


class _Use(NamedTuple):
    """A place where a name is used: the node, and what goes there, or what it means."""

    node: ast.expr
    one: Recognition | None
    target: Target


def call_sites(project: Project) -> list[Site]:
    """What there is to write in each file that uses what goes, or what set-up left on ``args``."""
    uses = {source.name: list(_uses(project, source)) for source in project.sources}
    attributes = Attributes()
    for source in project.sources:
        text = Text(source.module)
        for use in uses[source.name]:
            if use.one:
                attributes.learn(use.one, text.call_of(use.node))
        for one in source.going().values():
            attributes.learn(one, None)
    return [_site(project, source, uses[source.name], attributes) for source in project.sources]


def _site(project: Project, source: Source, uses: list[_Use], attributes: Attributes) -> Site:
    text = Text(source.module)
    gone = [one.found.node for one in source.going().values() if one.found]
    needs = Needs(source.module.names)
    notes = list(attributes.rewrite(text, gone, needs))
    for use in reversed(uses):  # What is within another call comes first.
        if use.one:
            _Writer(text, needs, notes, uses).write(use.node, use.one)
    kept = [(use.target, use.node.lineno) for use in uses if use.one is None and use.target.name]
    notes += [(use.node.lineno, _whole(text, use)) for use in uses if not use.target.name]
    notes += _named_by_texts(project, source)
    staying = {use.target.source.name for use in uses if use.one is None}
    notes += rewrite_imports(project, source, text, gone, needs, staying)
    changes = sorted(text.changes, key=lambda one: (one.line, one.span))
    return Site(source, changes, kept, sorted({*notes}))


def _whole(text: Text, use: _Use) -> str:
    outer = text.parents[use.node]
    how = text.of(outer) if isinstance(outer, ast.Call) else text.of(use.node)
    return f"{how.splitlines()[0]}: the module is handed on, and not followed from there"


def _named_by_texts(project: Project, source: Source) -> Iterator[tuple[int, str]]:
    """Imports at run time of a file in which something goes."""
    for node in ast.walk(source.module.tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = dotted(node.func, {}).rpartition(".")[2]
        name = getattr(node.args[0], "value", None)
        if called not in ("import_module", "__import__") or not isinstance(name, str):
            continue
        if (found := project.find(name, source)) and found.source.going():
            yield node.lineno, f"{name} is named by a text: what is taken of it is not followed"


def _uses(project: Project, source: Source) -> Iterator[_Use]:
    """The places that use what goes, or anything else of a file in which something goes."""
    text = Text(source.module)
    gone = {one.found.node for one in source.going().values() if one.found}
    for node, name in names_with_dots(source.module.tree):
        if not isinstance(getattr(node, "ctx", None), ast.Load) or _is_in(node, gone, text):
            continue
        target = _meaning(project, source, node, name, text)
        if target is None or not (goes := target.source.going()):
            continue
        parts = target.name.split(".")
        for count in range(len(parts), 0, -1):
            if ".".join(parts[:count]) in goes:
                part = _without(node, len(parts) - count)
                yield _Use(part, goes[".".join(parts[:count])], target)
                break
        else:
            if target.source is not source:
                yield _Use(node, None, target)


def _is_in(node: ast.AST, gone: Collection[ast.AST], text: Text) -> bool:
    return any(one in gone for one in text.above(node))


def _without(node: ast.expr, count: int) -> ast.expr:
    """A name without its last parts."""
    for _ in range(count):
        node = node.value if isinstance(node, ast.Attribute) else node
    return node


def _meaning(
    project: Project, source: Source, node: ast.expr, name: str, text: Text
) -> Target | None:
    first, _, rest = name.partition(".")
    if first in source.imports:
        meant = source.imports[first]
        hidden = text.is_hidden(first, node)
        return None if hidden else project.find(f"{meant}.{rest}" if rest else meant, source)
    if first in source.defined():
        return None if text.is_hidden(first, node) else Target(source, name)
    for star in source.stars:
        found = project.find(f"{star}{'' if star.endswith('.') else '.'}{name}", source)
        if found and found.name.partition(".")[0] in found.source.defined():
            return found
    return None


class _Writer:
    """Writes ours in the place of a name that goes."""

    def __init__(
        self, text: Text, needs: Needs, notes: list[tuple[int, str]], uses: list[_Use]
    ) -> None:
        self.text = text
        self.needs = needs
        self.notes = notes
        self.tests = {use.node: use.one for use in uses}

    def write(self, node: ast.expr, one: Recognition) -> None:
        """Write what there is to write, or say why a person has to."""
        call = self.text.call_of(node)
        try:
            body = body_of(one, self.needs.torch_names(), leaving=False)
            done = self._written(node, call, one, body)
            why = "" if done else "this call has another form"
        except NoBodyError as error:
            why = str(error)
        if why:
            line = (one.write or NOTHING) if one.row else NOTHING
            self.text.change(call or node, line, why)
        self.needs.note(one.ours)
        if one.ours == "save":
            self._look_for_a_condition(node)

    def _written(self, node: ast.expr, call: ast.Call | None, one: Recognition, body: str) -> bool:
        """Write a line of ours; False if none can be."""
        function = one.found.node if one.found else None
        if call is None or not isinstance(function, Function):
            return self._renamed(node, call, of_reference(body, function or node))
        statement = self.text.statement_of(call)
        written = of_call(body, function, call, statement, self.text.changed)
        if written is None:
            return False
        if written.same:
            return self._renamed(node, call, written.text.partition("(")[0])
        self.needs.note(written.text)
        if written.whole and statement:
            self.text.change(statement, self.text.indented(statement, written.text))
        else:
            self.text.change(call, written.text, atom=written.atom)
        return True

    def _renamed(self, node: ast.expr, call: ast.Call | None, name: str) -> bool:
        if name and call:
            self.text.rename(node, call, name)
        elif name:
            self.text.change(node, name)
        return bool(name)

    def _look_for_a_condition(self, node: ast.AST) -> None:
        """Ours is called on all ranks: not where only one of them comes by."""
        inner = node
        for outer in self.text.above(node):
            if isinstance(outer, ast.If) and inner in outer.body and self._asks(outer.test):
                told = f"if {self.text.of(outer.test)}:".splitlines()[0]
                words = f"stands within `{told}` of line {outer.lineno}: call it on all ranks"
                self.notes.append((getattr(node, "lineno", 0), f"allranks.save {words}"))
            inner = outer

    def _asks(self, test: ast.expr) -> bool:
        found = [self.tests.get(one) for one in ast.walk(test) if isinstance(one, ast.expr)]
        masters = [one for one in found if one and one.ours == "is_master"]
        return bool(masters) or "rank==0" in marks_of([test], {})
