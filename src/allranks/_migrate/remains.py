"""What a file holds beside what goes: it has to move before the file is deleted."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from allranks._migrate.marks import Function
from allranks._migrate.project import definitions
from allranks._migrate.recognise import HELPER, NO_RANKS, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from allranks._migrate.call_sites import Site
    from allranks._migrate.project import Source

WHY = {
    NO_RANKS: "not about ranks: allranks has nothing for them",
    UNKNOWN: "about ranks, but not recognised",
    "partly": "only some methods are recognised",
    "value": "values, no functions",
}


def remains(source: Source) -> list[tuple[str, str]]:
    """What does not go with what allranks replaces, each with the key of its reason in ``WHY``."""
    going = source.going()
    status = {one.name: one.status for one in source.recognised if one.found}
    functions = {one.name for one in source.module.found if "." not in one.name}
    kept = _used_by_those_that_stay(source, going)
    lost = {name for one in going.values() if one.found for name in _names_in(one.found.node)}
    return [
        (name, _why(name, status, functions))
        for name in dict.fromkeys(definitions(source.module.tree))
        if name not in going
        and not _is_helpers_class(name, source)
        and (name in functions or name in kept or name not in lost)
    ]


def _why(name: str, status: dict[str, str], functions: set[str]) -> str:
    if name not in functions:
        return "value"
    if any(one.startswith(f"{name}.") for one in status):
        return "partly"
    return status.get(name, NO_RANKS)


def _is_helpers_class(name: str, source: Source) -> bool:
    inner = [one.status for one in source.recognised if one.name.startswith(f"{name}.")]
    return bool(inner) and all(one == HELPER for one in inner)


def _used_by_those_that_stay(source: Source, going: Iterable[str]) -> set[str]:
    staying = [
        node
        for node in source.module.tree.body
        if not isinstance(node, Function | ast.ClassDef) or node.name not in going
    ]
    return {name for node in staying for name in _names_in(node)}


def _names_in(node: ast.AST) -> set[str]:
    return {
        one.id
        for one in ast.walk(node)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)
    }


def is_script(source: Source) -> bool:
    """Whether a file is there to be run, so that nobody deletes it for its helpers."""
    tests = (one.test for one in source.module.tree.body if isinstance(one, ast.If))
    return any("__name__" in _names_in(one) for one in tests)


def partings(source: Source, sites: Sequence[Site]) -> Iterator[str]:
    """What to do before the file is deleted."""
    if not source.going() or is_script(source) or source.path is None:
        return
    left = remains(source)
    used = [
        f"{site.source.name}:{line} ({target.name})"
        for site in sites
        for target, line in sorted(site.kept, key=lambda one: one[1])
        if target.source is source
    ]
    if not left and not used:
        yield f"Nothing else is in {source.name}: delete it when no file imports it any more."
        return
    yield f"Before you delete {source.name}, move: {'; '.join(_by_reason(left))}."
    if used:
        yield f"Then import them from their new place: {', '.join(used)}."


def _by_reason(left: Sequence[tuple[str, str]]) -> Iterator[str]:
    for key in dict.fromkeys(key for _, key in left):
        names = ", ".join(name for name, its in left if its == key)
        yield f"{names} ({WHY[key]})"
