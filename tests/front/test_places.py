"""The places of the package: imports between them point down, and use what has no underscore."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import allranks

PACKAGE = Path(allranks.__file__).parent

PLACES = (
    "_system",
    "errors",
    "_migrate",
    "_launchers",
    "_rendezvous",
    "_watch",
    "_status",
    "_transport",
    "_collectives",
    "_stragglers",
    "_process_group",
    "_bench",
    "_doctor",
    "_training",
    "_launch",
    "_pytest",
    "",
)
"""From the ground up; "" is the street, where the front doors are."""

DOORS = {
    "__init__",
    "__main__",
    "distutils",
    "autograd",
    "meters",
    "pytest_plugin",
    "_cli",
    "_job_commands",
}

DRAWING = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text()

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


class Use(NamedTuple):
    """What a file takes from elsewhere in the package: a module, and a name in it, or ""."""

    module: str
    name: str


def uses(file: str) -> set[Use]:
    """All that a file imports from the package, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {use_of(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {use_of(alias.name, "") for alias in node.names}
    return {use for use in found if use is not None}


def use_of(module: str, name: str) -> Use | None:
    first, _, rest = module.partition(".")
    if first != "allranks":
        return None
    inner = f"{rest}.{name}" if rest else name
    if name and is_module(inner):
        return Use(inner, "")
    return Use(rest, name)


def is_module(dotted: str) -> bool:
    path = PACKAGE / dotted.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def place_of(module: str) -> str:
    first = module.partition(".")[0]
    return first if first in PLACES else ""


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_file_has_a_place() -> None:
    street = {Path(file).stem for file in FILES if "/" not in file}
    assert street <= DOORS | {"errors"}
    assert {file.split("/")[0] for file in FILES if "/" in file} == {*PLACES} - {"", "errors"}


@pytest.mark.parametrize("file", FILES)
def test_imports_between_places_point_down(file: str) -> None:
    here = PLACES.index(place_of(module_of(file)))
    for use in uses(file):
        assert PLACES.index(place_of(use.module)) <= here, f"{file} imports {use.module}"


def test_there_is_no_circle_within_a_place() -> None:
    """Each file can be read before those that use it."""
    left = {module_of(file): {use.module for use in uses(file)} for file in FILES}
    while free := [one for one, used in left.items() if not used - {one} & left.keys()]:
        for one in free:
            del left[one]
    assert not left


@pytest.mark.parametrize("file", FILES)
def test_what_has_an_underscore_is_its_file_s_own(file: str) -> None:
    for use in uses(file):
        assert not use.name.startswith("_") or use.name.startswith("__"), f"{file}: {use}"


@pytest.mark.parametrize("file", FILES)
def test_a_file_stays_readable(file: str) -> None:
    assert len((PACKAGE / file).read_text().splitlines()) <= 450


@pytest.mark.parametrize("file", FILES)
def test_a_class_can_be_held_in_mind(file: str) -> None:
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.ClassDef):
            methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
            assert len(methods) <= 15, (node.name, methods)


def test_the_drawing_shows_the_arrows_that_there_are() -> None:
    drawn = {
        (one, other)
        for one, others in re.findall(r"^    (\w+) --> (.*)$", DRAWING, re.MULTILINE)
        for other in others.split(" & ")
    }
    found = {
        (place_of(module_of(file)) or "street", place_of(use.module))
        for file in FILES
        for use in uses(file)
        if place_of(use.module) not in ("", place_of(module_of(file)))
    }
    assert drawn == found


@pytest.mark.parametrize("place", [place for place in PLACES if place.startswith("_")])
def test_a_place_says_what_it_owns_and_names_its_files(place: str) -> None:
    tree = ast.parse((PACKAGE / place / "__init__.py").read_text())
    (docstring,) = tree.body
    text = ast.unparse(docstring)
    files = {Path(file).stem for file in FILES if file.startswith(f"{place}/")} - {"__init__"}
    named = {name for name in files if f"``{name}``" in text}
    assert place == "_launchers" or named == files, files - named


@pytest.mark.parametrize("path", re.findall(r"`(\w+/\w+\.py)`", DRAWING))
def test_the_walks_lead_through_files_that_there_are(path: str) -> None:
    assert (PACKAGE / path).exists()
