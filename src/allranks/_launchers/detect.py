"""``detect(environ) -> World``: which launcher started this process. Pure."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from allranks._launchers import (
    allranks_run,
    env,
    flux,
    horovod,
    hydra,
    kubernetes,
    lsf,
    lws,
    mvapich,
    openmpi,
    pals,
    pmi,
    pmix,
    ray,
    single,
    slurm,
    submitit,
    torchrun,
)
from allranks._launchers.fields import fault, joined, shown, whole
from allranks._launchers.ray import in_ray_worker
from allranks._launchers.world import World
from allranks._system.graph_breaks import outside_graphs
from allranks._system.typed_json import plain
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.reader import Reader

READERS = (
    allranks_run.READER,
    torchrun.READER,
    ray.READER,
    horovod.READER,
    lsf.READER,
    openmpi.READER,
    mvapich.READER,
    hydra.READER,
    submitit.READER,
    flux.READER,
    slurm.READER,
    pals.READER,
    pmi.READER,
    pmix.READER,
    lws.READER,
    kubernetes.READER,
    env.READER,
    single.READER,
)
"""In this order, since a launcher's variables leak into all that its processes start: the innermost
launcher wins. Each file says why it stands where it does."""

_OVER_SLURM = ("openmpi", "mvapich", "mpich")
"""What may be set for a task of srun, too, and stands before it."""

_PLACE = ("rank", "world_size", "local_rank", "local_world_size", "node_rank", "num_nodes")


@outside_graphs
def detect(environ: Environ, *, ignore: Collection[str] = ()) -> World:
    """Find out from the environment alone who this process is. Pure; not collective.

    Args:
        environ: the environment, such as ``os.environ``.
        ignore: names of launchers not to believe, whatever the environment says.

    Returns:
        This process's place, as the innermost launcher tells it; a world of one if none does.

    Raises:
        DetectionError: an environment is incomplete, or two contradict each other: which
            variables, the values seen, and the fix.
    """
    # A path is opened as it stands.
    environ = {k: v if k == "ALLRANKS_STORE" else plain(v) for k, v in environ.items()}
    row, here = _as_slurm_knows_it(*_innermost(environ, ignore), environ, ignore)
    if "env" not in ignore and _outnumbered(row, here, environ):
        row, here = _innermost(environ, {row.name for row in READERS if not row.takes_rank})
    if row.name == "single":
        _refuse_lost_rank(environ, ignore)
    world = World(row.name, **here)
    notes = (*world.notes, *_leftovers(row, environ, ignore))
    return replace(world, job=joined(world.job, environ.get("ALLRANKS_JOB")), notes=notes)


def told_by(launcher: str) -> list[str]:
    """The variables from which a launcher is recognised, without repetition."""
    rows = (row for row in READERS if row.name == launcher)
    return list(dict.fromkeys(name for row in rows for name in row.variables))


def _innermost(environ: Environ, ignore: Collection[str]) -> tuple[Reader, WorldFields]:
    for row in READERS:
        here = None if row.name in ignore else row.read(environ)
        if here is not None:
            return row, here
    return READERS[-1], single.read(environ)


def _refuse_lost_rank(environ: Environ, ignore: Collection[str]) -> None:
    """Raise a ``DetectionError`` for a rank of several that lost what tells which one it is."""
    ignored = [row for row in READERS if row.name in ignore and row.left_traces(environ)]
    silent = {*ignore, *(name for row in ignored for name in row.sets_too)}
    for row in READERS:
        if row.name not in silent and (names := row.lost(environ)):
            there = " and ".join(name for name in names if name in environ)
            fix = (
                "Pass all of them on (into the container, through sudo or ssh), or set RANK and "
                f"WORLD_SIZE. For a world of one, unset {there}."
            )
            raise fault(environ, names, "Some of the launcher's variables are missing", fix)


def _as_slurm_knows_it(
    row: Reader, here: WorldFields, environ: Environ, ignore: Collection[str]
) -> tuple[Reader, WorldFields]:
    """The task of srun, where MPI says the same of it: Slurm knows its hosts and its job."""
    if row.name in _OVER_SLURM and here.get("num_nodes") != 1 and "slurm" not in ignore:
        with suppress(DetectionError):
            step = slurm.read(environ)
            if step and all(here.get(name) in (None, step.get(name)) for name in _PLACE):
                return slurm.READER, step
    return row, here


def _outnumbered(row: Reader, here: WorldFields, environ: Environ) -> bool:
    """Whether RANK and WORLD_SIZE number children of the only process that a launcher started.

    Raises:
        DetectionError: something contradicts a launcher of several processes.
    """
    if row.takes_rank or row.name == "single":
        return False
    said = {"RANK": here["rank"], "WORLD_SIZE": here["world_size"]}
    given = [name for name in said if environ.get(name)]
    strange = [name for name in given if whole(environ, name) != said[name]]
    if here["world_size"] == 1 and len(given) == 2:
        return bool(strange)
    if strange:
        fix = "Unset those that are not about this process, or set RANK and WORLD_SIZE to agree"
        ignoring = ", or call setup(submit=False) to ignore Slurm" if row.name == "slurm" else ""
        raise _contradiction(row, here, environ, strange, f"{fix}{ignoring}.")
    if here["world_size"] > 1 and in_ray_worker(environ):
        fix = "This may be its raylet's rank: set RANK and WORLD_SIZE in the Ray worker."
        raise _contradiction(row, here, environ, ("RAY_JOB_ID", "RAY_RAYLET_PID"), fix)
    return False


def _contradiction(
    row: Reader, here: WorldFields, environ: Environ, strange: Iterable[str], fix: str
) -> DetectionError:
    said = f"{row.name} says rank {here['rank']} of {here['world_size']}"
    names = (*row.variables, *strange)
    return fault(environ, names, f"{said}, and {' and '.join(strange)} another thing", fix)


def _leftovers(chosen: Reader, environ: Environ, ignore: Collection[str]) -> Iterator[str]:
    """A sentence on each launcher whose variables are there and are not believed."""
    silent = {chosen.name, *chosen.sets_too, "env"}
    for row in READERS:
        if row.name in silent or not row.left_traces(environ):
            continue
        if row.name in ignore or chosen.name != "single":
            silent |= {row.name, *row.sets_too}
            left = [name for name in row.variables if name in environ and name not in env.NAMES]
            why = "asked to" if row.name in ignore else chosen.reason
            yield f"Ignored {shown(environ, left)} ({row.name}): {why}."
