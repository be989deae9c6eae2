"""The public API as text, one line for each thing that docs/public-api.md promises to keep.

    python tests/support/public_api.py

writes it to ``tests/front/public_api.txt``, with which ``tests/front/test_public_api.py`` compares.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import griffe
from click.testing import CliRunner

import allranks
from allranks import _cli, pytest_plugin
from allranks._doctor.checks import Check
from allranks._doctor.report import Report, as_json
from allranks._pytest import marker
from allranks._system import variables

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = "python tests/support/public_api.py"

TESTS = Path(__file__).parents[1]
FILE = TESTS / "front" / "public_api.txt"

MODULES = (
    "allranks",
    "allranks.autograd",
    "allranks.distutils",
    "allranks.errors",
    "allranks.meters",
)

TYPES = (
    "_transport.process_groups.Group",
    "_collectives.arguments.Op",
    "_launchers.world.Launcher",
    "_process_group.settings.Check",
    "_process_group.settings.SettingsDict",
    "_process_group.printing.PrintingOnMaster",
    "_stragglers.stragglers.Straggler",
    "_stragglers.stragglers.Stragglers",
    "_training.logs.RankLogger",
)
"""What public signatures name or return, and no public module has."""

OUTPUTS = {
    "env --json": ("_launchers.world.World",),
    "status --json": ("_watch.status_report.JobReport", "_watch.status_report.RankRow"),
    "bench --json": tuple(
        f"_bench.results.{name}"
        for name in ("Report", "Setting", "Row", "Timing", "PairMatrix", "Pair")
    ),
}
"""What commands print for programs: the fields of these classes."""


def text() -> str:
    """All of it."""
    package: Any = griffe.load("allranks", search_paths=[Path(allranks.__file__).parents[1]])
    lines = [f"Written by `{COMMAND}`; docs/public-api.md says what it promises."]
    for module in MODULES:
        lines += ["", f"[{module}]", *_of_module(package.modules_collection[module])]
    lines += ["", "[types that these name]", *_of_types(package)]
    lines += ["", "[the pytest plugin]", *_of_plugin(package["pytest_plugin"])]
    lines += ["", "[the command line]", *_of_group(_cli.main)]
    for command, classes in OUTPUTS.items():
        lines += ["", f"[allranks {command}]", *_of_output(package, classes)]
    lines += ["", "[allranks doctor --json]", *_keys(_from_doctor())]
    lines += ["", "[allranks migrate --json]", *_keys(_from_migrate())]
    lines += ["", "[environment variables]", *variables.OF_USERS, ""]
    return "\n".join(lines)


def _of_module(module: Any) -> Iterator[str]:
    for name in sorted(map(str, module.exports)):
        thing = module[name].final_target if module[name].is_alias else module[name]
        if module.name == "distutils" and name in allranks.__all__:
            yield f"{name} = allranks.{name}"
        elif thing.kind is not griffe.Kind.MODULE:
            yield from _described(thing)


def _of_types(package: Any) -> Iterator[str]:
    for path in TYPES:
        yield from _described(package[path])


def _described(thing: Any) -> Iterator[str]:
    if thing.kind is griffe.Kind.CLASS:
        bases = ", ".join(map(str, thing.bases))
        yield from _wrapped(f"class {thing.name}({bases})".removesuffix("()"))
        for member in _members(thing):
            yield from textwrap.indent("\n".join(_described(member)), "    ").splitlines()
    elif thing.kind is griffe.Kind.FUNCTION:
        for one in thing.overloads or (thing,):
            yield from _wrapped(f"{_decorated(thing)}{one.signature()}")
    else:
        yield from _wrapped(_variable(thing))


def _members(of: Any) -> Iterator[Any]:
    for name, member in sorted(of.members.items()):
        special = name.startswith("__") and member.kind is griffe.Kind.FUNCTION
        if not name.startswith("_") or special:
            yield member


def _decorated(function: Any) -> str:
    """What makes a call of a function something else than its signature says."""
    names = [str(decorator.value) for decorator in function.decorators]
    return "@contextmanager " if "contextmanager" in names else ""


def _variable(thing: Any) -> str:
    kind = "property " * ("property" in thing.labels)
    kind = "writable " * ("writable" in thing.labels) + kind
    annotation = f": {thing.annotation}" if thing.annotation else ""
    shows = thing.value is not None and "instance-attribute" not in thing.labels
    value = f" = {thing.value}" if shows and thing.name != "__version__" else ""
    return f"{kind}{thing.name}{annotation}{value}"


def _wrapped(line: str) -> list[str]:
    """A line in pieces, which end at commas."""
    held = "\N{NO-BREAK SPACE}"
    pieces = textwrap.wrap(
        held.join(line.split()).replace(f",{held}", ", "),
        width=90,
        subsequent_indent="        ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [piece.replace(held, " ") for piece in pieces]


def _of_plugin(module: Any) -> Iterator[str]:
    yield f"@pytest.mark.{marker.MARKER.partition(':')[0]}"
    found: list[str] = []
    parser: Any = SimpleNamespace(
        addini=lambda name, _, default: found.append(f"ini {name} = {default}")
    )
    pytest_plugin.pytest_addoption(parser)
    yield from found
    for name, member in sorted(module.functions.items()):
        fixture = any("pytest.fixture" in str(one.value) for one in member.decorators)
        if fixture and not name.startswith("_"):
            yield f"fixture {name} -> {member.returns}"
    yield from _described(module["FakeWorld"])


def _of_group(group: click.Group) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        yield f"allranks {name}"
        for parameter in command.params:
            if not getattr(parameter, "hidden", False):
                yield f"    {_of_parameter(parameter)}"


def _of_parameter(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return f"{parameter.human_readable_name}: {parameter.type.name}" + _form(parameter)
    takes = "" if getattr(parameter, "is_flag", False) else f" {parameter.type.name}"
    return f"{', '.join(parameter.opts)}{takes}{_form(parameter)}"


def _form(parameter: click.Parameter) -> str:
    """Whether it must be given, how often it may be, and what it is otherwise."""
    default = parameter.default
    shown = f", default {default}" if isinstance(default, (str, int, float)) and default else ""
    several = ", several" * (getattr(parameter, "multiple", False) or parameter.nargs == -1)
    return f"{', required' * parameter.required}{several}{shown}"


def _of_output(package: Any, classes: tuple[str, ...]) -> Iterator[str]:
    for path in classes:
        yield path.rpartition(".")[2]
        for name, field in package[path].attributes.items():
            if not field.has_labels("property"):
                yield f"    {name}: {field.annotation}"


def _keys(value: Any, path: str = "") -> list[str]:
    """The paths to all keys in JSON; those of ``leaves`` are a program's own names."""
    if isinstance(value, list):
        return sorted({key for one in value for key in _keys(one, path)})
    found = []
    for name, inner in value.items() if isinstance(value, dict) else ():
        below = f"{path}.{name}".lstrip(".")
        found += [below, *([] if name == "leaves" else _keys(inner, below))]
    return found


def _from_doctor() -> Any:
    return json.loads(as_json(Report("", (Check("", "", ""),))))


def _from_migrate() -> Any:
    project = str(TESTS / "migrate" / "project")
    return json.loads(CliRunner().invoke(_cli.main, ["migrate", "--json", project]).stdout)


if __name__ == "__main__":
    FILE.write_text(text())
