"""The imports of a file once it calls ours: without what goes, and with allranks."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from allranks._migrate.editing import Change

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allranks._migrate.editing import Text
    from allranks._migrate.project import Project, Source


class Needs:
    """The modules that new lines need, and under which name a file has torch."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.wanted: set[str] = set()
        self.torch = next((name for name, meant in names.items() if meant == "torch"), "")

    def torch_names(self) -> dict[str, str]:
        """The file's name for torch, or the usual one."""
        return {self.torch or "torch": "torch"}

    def with_torch(self, line: str) -> str:
        """A line of ours with the file's name for torch."""
        return line.replace("torch.", f"{self.torch}.", 1) if self.torch else line

    def note(self, line: str) -> None:
        """A line that is to be written; "" for none."""
        if line and self.names.get("allranks") != "allranks":
            self.wanted.add("allranks")
        if "torch." in line and not self.torch:
            self.wanted.add("torch")

    def imports(self) -> list[str]:
        """The lines to add."""
        return [f"import {name}" for name in sorted(self.wanted)]


def rewrite_imports(
    project: Project,
    source: Source,
    text: Text,
    gone: Sequence[ast.AST],
    needs: Needs,
    kept: set[str],
) -> Iterator[tuple[int, str]]:
    """Take what goes out of a file's imports; gives what could not be followed.

    Args:
        project: all files.
        source: this one.
        text: its text, with the changes of its calls.
        gone: the definitions in it that go.
        needs: what the new lines need.
        kept: the files of which something else is used.
    """
    added = False
    for node in ast.walk(text.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if any(one in gone for one in text.above(node)):
            continue
        stay = [one for one in node.names if not _goes(project, source, node, one, kept)]
        touched = len(stay) < len(node.names) or any(
            _is_of_helpers(project, source, node, one) for one in node.names
        )
        if touched and text.is_alone(node):
            at_top = isinstance(text.parents[node], ast.Module)
            _write(text, node, stay, [] if added else needs.imports())
            added = added or at_top
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                told = "it takes all names, and those that go were told by their names alone"
                yield node.lineno, f"{text.of(node)}: {told}"
    if needs.wanted and not added and not _adds(text):
        lines = "\n".join(needs.imports())
        text.changes.append(Change(1, "", lines, "", "(among the imports)", lines))


def _adds(text: Text) -> bool:
    return any("import allranks" in one.new for one in text.changes)


def _name(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """What an import is of, with all its dots."""
    if isinstance(node, ast.Import):
        return alias.name
    module = "." * node.level + (node.module or "")
    if alias.name == "*":
        return module
    return f"{module}{'' if module.endswith('.') else '.'}{alias.name}"


def _goes(
    project: Project,
    source: Source,
    node: ast.Import | ast.ImportFrom,
    alias: ast.alias,
    kept: set[str],
) -> bool:
    """Whether nothing of what an import gives is used any more."""
    target = project.find(_name(node, alias), source)
    if target is None or not (going := target.source.going()):
        return False
    return target.name in going if target.name else target.source.name not in kept


def _is_of_helpers(
    project: Project, source: Source, node: ast.Import | ast.ImportFrom, alias: ast.alias
) -> bool:
    target = project.find(_name(node, alias), source)
    return target is not None and target.source is not source and bool(target.source.going())


def _write(
    text: Text, node: ast.Import | ast.ImportFrom, stay: list[ast.alias], more: list[str]
) -> None:
    """An import of what stays, and those of ours; ``pass`` where nothing is left of a block."""
    changed = len(stay) < len(node.names)
    lines = [text.of(node)] if not changed else _import_of(node, stay)
    lines += more
    if changed and not lines and _is_all(text.parents[node], node):
        lines = ["pass"]
    if not lines:
        text.delete(node, "(delete the line)")
    elif changed or more:
        text.change(node, text.indented(node, "\n".join(lines)))


def _import_of(node: ast.Import | ast.ImportFrom, stay: list[ast.alias]) -> list[str]:
    if not stay:
        return []
    if isinstance(node, ast.Import):
        return [ast.unparse(ast.Import(stay))]
    return [ast.unparse(ast.ImportFrom(node.module, stay, node.level))]


def _is_all(parent: ast.AST, node: ast.stmt) -> bool:
    """Whether a block has nothing but this statement."""
    blocks = (getattr(parent, name, None) for name in ("body", "orelse", "finalbody"))
    return not isinstance(parent, ast.Module) and [node] in blocks
