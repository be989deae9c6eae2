"""The rows: each is known by all of its names, and what it says to write is Python of ours."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import allranks
from allranks._migrate.reading import Found, read
from allranks._migrate.recognise import row_of
from allranks._migrate.row import Row, has_all
from allranks._migrate.rows import CALLS, OURS, ROWS
from allranks._migrate.shown import page

PAGE = Path(__file__).parents[2] / "docs" / "migrate.md"

HEAD = """
import builtins, os, pickle, sys, torch
import torch.distributed as dist
from mpi4py import MPI
import horovod.torch as hvd
"""

CODE = {
    "returns": "return thing",
    "silent": "pass",
    "of-parameter": "dist.get_backend(given)",
    "returns []": "return []",
    "returns-list": "return [thing]",
    "returns:*": "return thing",
    "rank==0": "if rank == 0: pass",
    "rank!=0": "if rank != 0: pass",
    "yield": "yield",
    "nested": "def inner(): pass",
    "print=": "builtins.print = thing",
    "stdout=": "sys.stdout = thing",
    "pickle": "pickle.dumps(thing)",
    "loops": "for one in thing: pass",
    "grad": "thing.grad",
    "group": "group",
    "returns.rank==0": "return rank == 0",
}

NAMES_OF = {"env.*": "SLURM_NTASKS", "env.*SIZE*": "WORLD_SIZE", "env.*RANK*": "RANK"}


def code_of(mark: str) -> str:
    """A statement that has this mark."""
    first, _, rest = mark.partition(".")
    named = rest.replace("*", "") or "barrier"
    if mark in CODE:
        return CODE[mark]
    if first == "returns":
        return f"return {code_of(rest)}"
    if first == "env":
        return f"os.environ[{NAMES_OF.get(mark, named)!r}]"
    heads = {"dist": "dist", "call": "thing", "mpi": "MPI", "hvd": "hvd"}
    return f"{heads[first]}.{named.strip('_') if first == 'call' else named}()"


def source_of(row: Row, name: str, required: tuple[str, ...]) -> str:
    """A definition of this name that has what is required, and nothing else."""
    marks = [one.split("|")[0] for one in required]
    lines = [
        code_of(one) for one in marks if not one.startswith(("takes.", "self.", "base.", "method."))
    ]
    lines += [f"self.{one[5:]} = 1" for one in marks if one.startswith("self.")]
    lines.sort(key=lambda line: line.startswith("return"))
    taken = ["given"] * ("of-parameter" in marks) + [
        one[6:] for one in marks if one.startswith("takes.")
    ]
    if row.kind == "function":
        return HEAD + definition(name, taken, lines)
    if row.kind == "method":
        return f"{HEAD}class Some:\n" + indented(definition(name, ["self"], lines))
    bases = ", ".join(
        f"some.{one[5:].replace('*', 'Distributed')}" for one in marks if one.startswith("base.")
    )
    methods = [one[7:] for one in marks if one.startswith("method.")] or ["forward"]
    defined = "".join(indented(definition(one, ["self"], lines)) for one in methods)
    return f"{HEAD}class {name}({bases}):\n{defined}"


def definition(name: str, parameters: list[str], lines: list[str]) -> str:
    return f"def {name}({', '.join(parameters)}):\n" + indented("\n".join(lines or ["pass"]))


def indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def found_in(source: str, name: str) -> Found:
    """The facts of one definition in a source."""
    each = read(source.encode()).found
    return next(one for one in each if one.name.rpartition(".")[2] == name)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names.split()[0])
def test_a_row_is_known_by_each_of_its_names_and_no_other_row_is_as_good(row: Row) -> None:
    for name in row.names.split():
        found = found_in(source_of(row, name, row.must), name)
        assert has_all(found.marks, row.must), found.marks
        assert row_of(found) == (row, "name and body")
        same = [
            other
            for other in ROWS
            if other.is_called(name)
            and other.kind == row.kind
            and len(other.must) >= len(row.must)
            and has_all(found.marks, other.must)
            and not (other.never and has_all(found.marks, [other.never]))
        ]
        assert same == [row], name


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.alone], ids=lambda row: row.names.split()[0]
)
def test_a_small_body_is_known_without_a_name(row: Row) -> None:
    source = source_of(row, "qwerty", row.alone)
    assert row_of(found_in(source, "qwerty")) == (row, "body"), source


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.names.split()[0])
def test_a_name_alone_is_never_enough(row: Row) -> None:
    name = row.names.split()[0]
    body = "pass" if row.kind == "function" else "def forward(self): pass"
    head = f"def {name}():" if row.kind == "function" else f"class {name}:"
    assert row_of(found_in(f"{head}\n    {body}\n", name)) is None


@pytest.mark.parametrize(
    "line", [row.line for row in ROWS if row.line] + [line for _, line in CALLS]
)
def test_what_to_write_is_python_with_a_name_of_ours(line: str) -> None:
    names = {
        ast.unparse(node) for node in ast.walk(parsed(line)) if isinstance(node, ast.Attribute)
    }
    assert {f"allranks.{name}" for name in OURS} & names, line


@pytest.mark.parametrize("line", [row.line for row in ROWS if row.line])
def test_what_to_write_has_the_arguments_that_are_asked_for(line: str) -> None:
    for call in [node for node in ast.walk(parsed(line)) if isinstance(node, ast.Call)]:
        name = ast.unparse(call.func).removeprefix("allranks.")
        if name in allranks.__all__ and not any(isinstance(a, ast.Starred) for a in call.args):
            keywords = {one.arg: one for one in call.keywords if one.arg}
            inspect.signature(getattr(allranks, name)).bind(*call.args, **keywords)


def parsed(line: str) -> ast.AST:
    """A line as Python; a decorator has something to decorate."""
    return ast.parse(f"{line}\ndef some(): ..." if line.startswith("@") else line)


def test_each_row_s_name_is_in_its_line_and_in_the_list() -> None:
    for row in ROWS:
        assert bool(row.ours) is bool(row.line)
        assert not row.ours or f"allranks.{row.ours}" in row.line, row.line
    used = {row.ours for row in ROWS if row.ours}
    used |= {line.partition("(")[0].removeprefix("allranks.") for _, line in CALLS}
    assert sorted(used) == sorted(OURS)


@pytest.mark.parametrize("name", OURS)
def test_our_names_are_there(name: str) -> None:
    place, _, last = name.rpartition(".")
    module = importlib.import_module(f"allranks.{place}") if place else allranks
    assert last in module.__all__


def test_the_page_is_made_of_the_rows() -> None:
    assert PAGE.read_text() == page(), "python -m allranks._migrate.shown > docs/migrate.md"


@pytest.mark.parametrize("row", [row for row in ROWS if row.like], ids=lambda row: row.ours)
def test_a_class_that_takes_another_s_place_has_what_the_row_says(row: Row) -> None:
    ours = getattr(allranks.meters, row.ours.removeprefix("meters."))
    for one in row.like.split():
        name, count = one.split("/")
        method = inspect.getattr_static(ours, name)
        if isinstance(method, property):
            assert int(count) == (method.fset is not None)
        else:
            kinds = [each.kind for each in inspect.signature(method).parameters.values()]
            assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == int(count) + 1
