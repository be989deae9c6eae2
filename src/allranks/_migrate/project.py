"""The files that are read together, and which of them an import means."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.marks import Function, dotted
from allranks._migrate.recognise import HELPER, NO_RANKS, RECOGNISED, recognise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allranks._migrate.reading import Module
    from allranks._migrate.recognise import Recognition

NOT_SEARCHED = {"node_modules", "site-packages", "__pycache__", "build", "dist"}
"""Directories whose files are nobody's own; those with a dot, and environments, are not, either."""

DEEP = 10
"""Files that hand a name on to each other; more of them are a circle."""


class Source(NamedTuple):
    """A file that was read.

    Attributes:
        name: as it is shown.
        path: where it is; None for the standard input.
        asked: whether it was given by itself, and not found in a directory.
        module: what it holds.
        recognised: what its functions are.
        imports: the names that its imports bind, with what they stand for; one from beside the
            file has as many dots before it as its import.
        stars: the modules of which it takes all names.
    """

    name: str
    path: Path | None
    asked: bool
    module: Module
    recognised: tuple[Recognition, ...]
    imports: dict[str, str]
    stars: tuple[str, ...]

    def going(self) -> dict[str, Recognition]:
        """What allranks replaces, by name."""
        gone = (RECOGNISED, HELPER)
        return {one.name: one for one in self.recognised if one.found and one.status in gone}

    def defined(self) -> set[str]:
        """The names that the file itself gives to something, in no function."""
        return set(definitions(self.module.tree))

    def holds_helpers(self) -> bool:
        """Whether anything in it is about ranks."""
        return any(one.status != NO_RANKS for one in self.recognised)


class Target(NamedTuple):
    """What a name means: something in a file, or the file itself where ``name`` is empty."""

    source: Source
    name: str


def source_of(name: str, path: Path | None, module: Module, *, asked: bool) -> Source:
    """A file that was read, and what is recognised in it."""
    nodes = [*ast.walk(module.tree)]
    imports: dict[str, str] = {}
    for node in nodes:
        imports.update(bound_by(node))
    froms = [one for one in nodes if isinstance(one, ast.ImportFrom)]
    stars = tuple(_module_of(one) for one in froms if one.names[0].name == "*")
    place = Path(os.path.abspath(path)) if path else None  # noqa: PTH100 - links stay
    return Source(name, place, asked, module, tuple(recognise(module)), imports, stars)


def bound_by(node: ast.AST) -> dict[str, str]:
    """The names that an import binds, and what each stands for."""
    if isinstance(node, ast.Import):
        pairs = [(one.asname, one.name) for one in node.names]
        return {
            new or old.partition(".")[0]: old if new else old.split(".")[0] for new, old in pairs
        }
    if not isinstance(node, ast.ImportFrom):
        return {}
    module = _module_of(node)
    between = "" if module.endswith(".") else "."
    named = [one for one in node.names if one.name != "*"]
    return {one.asname or one.name: f"{module}{between}{one.name}" for one in named}


def _module_of(node: ast.ImportFrom) -> str:
    return "." * node.level + (node.module or "")


def definitions(tree: ast.AST) -> Iterator[str]:
    """The names of functions, classes and values that stand in no function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif not isinstance(node, ast.Lambda | ast.expr) or isinstance(node, ast.Tuple | ast.List):
            yield from definitions(node)


class Project:
    """All files that were read."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.by_path = {one.path: one for one in sources if one.path}

    def find(self, name: str, importer: Source, depth: int = 0) -> Target | None:
        """What a name with dots means, as an import of a file spells it; None if it is elsewhere's.

        Args:
            name: such as ``utils.misc.get_rank``, or ``.misc.get_rank``.
            importer: the file that has the import.
            depth: how many files have handed the name on.
        """
        level = len(name) - len(name.lstrip("."))
        parts = [one for one in name.split(".") if one]
        for count in range(len(parts), -1 if level else 0, -1):
            source = self._file(parts[:count], importer, level)
            if source is not None:
                return self._within(source, parts[count:], depth)
        return None

    def _within(self, source: Source, rest: list[str], depth: int) -> Target | None:
        """A name in a file, or where that file has it from."""
        if not rest or rest[0] in source.defined() or depth > DEEP:
            return Target(source, ".".join(rest))
        meant = source.imports.get(rest[0])
        if meant is not None:
            found = self.find(".".join([meant, *rest[1:]]), source, depth + 1)
            return found or Target(source, ".".join(rest))
        for star in source.stars:
            found = self.find(f"{star.rstrip('.')}.{'.'.join(rest)}", source, depth + 1)
            if found and found.name.partition(".")[0] in found.source.defined():
                return found
        return Target(source, ".".join(rest))

    def _file(self, parts: list[str], importer: Source, level: int) -> Source | None:
        if level:
            return self._beside(parts, importer, level)
        if not parts or parts[0] in sys.stdlib_module_names:
            return None
        ends = [
            one
            for one in self.sources
            if one.path and _module_parts(one.path)[-len(parts) :] == parts
        ]
        nearest = [one for one in ends if _is_below(importer, one, len(parts))]
        return max(nearest, key=lambda one: len(str(one.path)), default=ends[0] if ends else None)

    def _beside(self, parts: list[str], importer: Source, level: int) -> Source | None:
        if importer.path is None or level > len(importer.path.parents):
            return None
        place = importer.path.parents[level - 1].joinpath(*parts)
        module = self.by_path.get(place.with_name(f"{place.name}.py"))
        return module or self.by_path.get(place / "__init__.py")


def _module_parts(path: Path) -> list[str]:
    """A file's place as an import would spell it, from the root of the file system."""
    whole = path.parent if path.name == "__init__.py" else path.with_suffix("")
    return list(whole.parts)


def _is_below(importer: Source, source: Source, parts: int) -> bool:
    """Whether the directory that an import begins in is one of those above the importer."""
    assert source.path  # noqa: S101 - the caller has asked
    root = Path(*_module_parts(source.path)[:-parts])
    return importer.path is not None and root in importer.path.parents


def python_files(directory: Path) -> Iterator[Path]:
    """The files of Python below a directory, in their order, but for those of environments."""
    for place, directories, files in os.walk(directory):
        kept = [one for one in directories if _is_searched(Path(place) / one)]
        directories[:] = sorted(kept)
        yield from (Path(place) / one for one in sorted(files) if one.endswith(".py"))


def _is_searched(directory: Path) -> bool:
    own = directory.name not in NOT_SEARCHED and not directory.name.startswith(".")
    return own and not (directory / "pyvenv.cfg").exists()


def names_with_dots(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Each name that is read, with all its dots, as the file spells it."""
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and node not in inner and dotted(node, {}):
            yield node, dotted(node, {})
