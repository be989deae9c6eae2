"""Blocks of the launchers' pages: from the launchers' files, recordings, and the tests' places."""

from __future__ import annotations

import io
import json
import sys
from importlib import import_module
from itertools import chain, groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console

from allranks._launchers import simulated
from allranks._launchers.description import description
from allranks._launchers.detect import READERS, detect
from allranks._rendezvous.plan import plan
from allranks.errors import ConfigError
from markdown_table import rows_of, table

sys.path.append(str(Path(__file__).parents[2] / "tests" / "cluster"))

from geometries import GEOMETRIES
from pods import pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

    from allranks._rendezvous.plan import RendezvousPlan

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "launchers"
RECORDINGS = ROOT / "tests" / "launchers" / "recordings"

COLUMNS = 100
"""Of what ``allranks env`` shows."""

ORDER = (
    *("allranks-run", "torchrun", "slurm", "openmpi", "mpich", "ray", "kubernetes"),
    *("flux", "pals", "lsf", "mvapich2", "horovod", "submitit", "lightning", "plain"),
)
"""The launchers' pages, as the overview lists them."""

MEANINGS = (
    *("rank", "world size", "local rank", "ranks on this host", "this host's number", "hosts"),
    *("rank 0's address, if it is set", "rank 0's port, if it is set"),
)
"""Of ``VariableNames``, in its order."""


class Sample(NamedTuple):
    """An environment of a rank, and where it comes from."""

    environ: dict[str, str]
    source: str


def _file_of(module: str) -> ModuleType:
    return import_module(f"allranks._launchers.{module}")


def _paragraphs(module: str) -> list[str]:
    """The docstring of a launcher's file, as Markdown."""
    text = (_file_of(module).__doc__ or "").replace("``", "`")
    return [" ".join(part.split()) for part in text.split("\n\n")]


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def variables(module: str) -> str:
    """What tells a rank its place, from the file of its launcher.

    Args:
        module: the file's name, without its end.
    """
    names = getattr(_file_of(module), "NAMES", ())
    rows = [(what, f"`{name}`") for what, name in zip(MEANINGS, names, strict=False) if name]
    first, *reasons = _paragraphs(module)
    parts = [first, table(("", "variable"), *rows) if rows else "", "\n".join(_remarks(module))]
    of_order = f"In [the order](../launchers.md#which-launcher-is-believed): {' '.join(reasons)}"
    return "\n\n".join(filter(None, (*parts, of_order)))


def _remarks(module: str) -> Iterator[str]:
    reader = _file_of(module).READER
    yield f"- Read by [{module}.py](../../src/allranks/_launchers/{module}.py)."
    yield f"- `allranks env` shows as evidence what is set of {_code(reader.variables)}."
    if reader.sets_too:
        yield f"- The variables of {', '.join(reader.sets_too)} may be set, too."
    if reader.prefixes:
        yield f"- `fake_world` clears all that begins with {_code(reader.prefixes)}."


def order() -> str:
    """In which order launchers are believed."""
    names = [name for name, _ in groupby(reader.name for reader in READERS)]
    return f"{', '.join(names)}."


def env(kind: str, *arguments: str) -> str:
    """What ``allranks env`` shows in an environment, and where its ranks meet.

    Args:
        kind: ``recorded``, ``simulated``, ``pod`` or ``set``.
        *arguments: a recording's name and a rank; a launcher, a rank, the number of ranks, and how
            many are on each host; a manifest and the number of a pod; or variables.
    """
    sources: Mapping[str, Callable[..., Sample]]
    sources = {"recorded": _recorded, "simulated": _simulated, "pod": _pod, "set": _set}
    sample = sources[kind](*arguments)
    out = io.StringIO()
    world = detect(sample.environ)
    for part in description(world, sample.environ):
        Console(file=out, width=COLUMNS).print(part)
    shown = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return f"{sample.source}:\n\n```text\n{shown}\n```\n\n{_meeting_of(sample.environ)}"


def _recorded(name: str, rank: str) -> Sample:
    told = json.loads((RECORDINGS / f"{name}.json").read_text())
    here = next(p for p in told["processes"] if p["expected"]["rank"] == int(rank))
    path = f"../../tests/launchers/recordings/{name}.json"
    return Sample(here["environ"], f"Rank {rank} of a recorded run, [{told['case']}]({path})")


def _simulated(launcher: str, rank: str, ranks: str, each: str) -> Sample:
    known = {reader.name: reader.name for reader in READERS}
    environ = simulated.environment(known[launcher], int(rank), int(ranks), int(each))  # type: ignore[index]
    where = f"{each} on each host" if each != ranks else "all on one host"
    return Sample(
        environ, f"Rank {rank} of {ranks}, {where}, in an environment that `fake_world` makes"
    )


def _pod(manifest: str, number: str) -> Sample:
    pod = pods(manifest)[int(number)]
    return Sample({**pod.environ, "HOSTNAME": pod.name}, f"The pod `{pod.name}` of that manifest")


def _set(*given: str) -> Sample:
    return Sample(dict(one.split("=", 1) for one in given), f"With {_code(given) or 'nothing set'}")


def _meeting_of(environ: dict[str, str]) -> str:
    """Where the ranks meet, as ``setup`` would plan it without settings."""
    try:
        return _in_words(plan(detect(environ)))
    except ConfigError as error:
        return f"Without more, they cannot meet, and every rank says so:\n\n{_as_text(str(error))}"


def _in_words(how: RendezvousPlan) -> str:
    if how.alone:
        return "It has nobody to meet."
    if how.private_file:
        return f"They meet in a file, `{how.private_file}`."
    if how.agent:
        return f"They meet in the store of torchrun's agent, at `{how.agent[0]}:{how.agent[1]}`."
    if isinstance(how.board, tuple):
        agent = f"`{how.board[0]}:{how.board[1]}`"
        return f"They meet in a store of rank 0's, whose address is in the agent's, at {agent}."
    hosts = " or ".join(f"`{host}`" for host in how.hosts)
    if len(how.ports) == 1:
        return f"They meet at {hosts}, port {how.ports[0]}."
    others = f"{len(how.ports) - 1} others that follow from the job's identity"
    return f"They meet at {hosts}, at the first free port of {how.ports[0]} and {others}."


def _as_text(*sentences: str) -> str:
    """Sentences as they are, also where Markdown would read something into them."""
    lines = [
        wrap(text, COLUMNS, break_long_words=False, break_on_hyphens=False) for text in sentences
    ]
    return "\n".join(("```text", *chain.from_iterable(lines), "```"))


def notes(*given: str) -> str:
    """What is said in an environment.

    Args:
        *given: its variables.
    """
    environ = dict(one.split("=", 1) for one in given)
    return _as_text(*detect(environ).notes)


def geometries(launcher: str) -> str:
    """Where the tests start ranks under a launcher, and how long that took.

    Args:
        launcher: its name.
    """
    took = {row[:2]: row[2] for row in measured()}
    rows = [
        (one.name, " ".join(one.hosts), took.get((launcher, one.name), "not measured"))
        for one in GEOMETRIES
        if one.launcher == launcher
    ]
    return table(("where", "the host of each rank", "first collective after"), *rows)


def measured() -> list[tuple[str, ...]]:
    """The rows that `benchmarks/launchers.py` has written."""
    page = (ROOT / "docs" / "launchers.md").read_text()
    return rows_of(page, "| launcher | geometry |")[1:]


def file(name: str, test: str = "") -> str:
    """A whole file of the repository.

    Args:
        name: its path.
        test: what runs it, for the test of the pages' code.
    """
    text = (ROOT / name).read_text().rstrip()
    language = {".yaml": "yaml", ".py": "python"}.get(Path(name).suffix, "sh")
    elsewhere = f"<!-- elsewhere: {test} -->\n\n" if test else ""
    return f"[{name}](../../{name}):\n\n{elsewhere}```{language}\n{text}\n```"


def launchers() -> str:
    """All launchers, each with the line of its page that starts a script, and what tells a rank."""
    return table(("launcher", "started by", "told by"), *map(_row, ORDER))


def _row(name: str) -> tuple[str, ...]:
    text = (PAGES / f"{name}.md").read_text()
    title = text.partition("\n")[0].removeprefix("# ")
    line = text.partition("\n## Start it\n")[2].partition("\n```")[2].splitlines()[1]
    modules = [part.partition(" -->")[0] for part in text.split("<!-- generated: variables ")[1:]]
    told = [name for module in modules for name in _file_of(module).READER.variables]
    known = _code(tuple(dict.fromkeys(told)))
    return (f"[{title}](launchers/{name}.md)", f"`{line.removeprefix('$ ')}`", known)
