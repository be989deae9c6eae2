"""A world, and what told it, as ``allranks env`` shows them to people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from allranks._launchers.detect import told_by
from allranks._system.printable import printable
from allranks._system.typed_json import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.table import Table
    from rich.text import Text

    from allranks._launchers.fields import Environ
    from allranks._launchers.world import World


def description(
    world: World, environ: Environ, more: Iterable[tuple[str, str]] = ()
) -> Iterator[Table | Text]:
    """The facts, the variables that told them, and the notes.

    Args:
        world: what was detected.
        environ: from which environment.
        more: further facts, with their names.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table("fact", "value", title=f"launcher: {world.launcher}", title_justify="left")
    for name, value in (*_facts(world), *more):
        table.add_row(name, Text(printable(value)))
    yield table
    for line in (*_evidence(world, environ), *_notes(world)):
        yield Text(printable(line))


def _facts(world: World) -> Iterator[tuple[str, str]]:
    told = asdict(world)
    counted = ("local_rank", "local_world_size", "node_rank", "num_nodes")
    for name in ("rank", "world_size", *counted):
        yield name, "counted by setup()" if told[name] is None else str(told[name])
    for name in ("job", "master_addr", "master_port", "attempt", "store_path"):
        if told[name]:
            yield name, str(told[name])
    if world.hosts:
        yield "hosts of rank 0", ", ".join(world.hosts)
    if world.agent_store:
        yield "agent_store", "torchrun's agent keeps a store there"


def _evidence(world: World, environ: Environ) -> Iterator[str]:
    told = [name for name in told_by(world.launcher) if name in environ]
    if told:
        yield "told by: " + ", ".join(f"{name}={plain(environ[name]):.60}" for name in told)


def _notes(world: World) -> Iterator[str]:
    for note in world.notes:
        yield f"{'warning' if note in world.doubt else 'note'}: {note}"
