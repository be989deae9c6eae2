"""No launcher: a world of one, with notes on what looks like more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers import nodes
from allranks._launchers.fields import WorldFields, on_one_host, shown
from allranks._launchers.ray import in_ray_worker
from allranks._launchers.reader import Reader
from allranks._launchers.slurm import in_slurm_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allranks._launchers.fields import Environ


def read(environ: Environ) -> WorldFields:
    """No launcher: a world of one, with notes on what looks like more."""
    here = on_one_host(WorldFields(rank=0, world_size=1))
    here["job"] = "single"
    doubts = tuple(_doubts(environ))
    here["doubt"] = " ".join(doubts)
    here["notes"] = (*doubts, *_hints(environ))
    return here


def _doubts(environ: Environ) -> Iterator[str]:
    """What tells of more ranks."""
    if not _has_one_task(environ):
        yield from _without_srun(environ)
    yield from nodes.doubts(environ)


def _has_one_task(environ: Environ) -> bool:
    return environ.get("SLURM_NTASKS", "").strip() == "1"


def _without_srun(environ: Environ) -> Iterator[str]:
    if environ.get("SLURM_JOB_ID") and not in_slurm_step(environ):
        count = f", {environ['SLURM_NTASKS']} in all" if "SLURM_NTASKS" in environ else ""
        yield (
            f"In Slurm job {environ['SLURM_JOB_ID']}, but not started by srun: a world of one. "
            f"`srun python ...` would start the job's tasks{count}."
        )


def _hints(environ: Environ) -> Iterator[str]:
    """What may mean more ranks, and mostly does not."""
    if _has_one_task(environ):
        yield from _without_srun(environ)
    if "JOB_COMPLETION_INDEX" in environ:
        yield (
            f"JOB_COMPLETION_INDEX={environ['JOB_COMPLETION_INDEX']}, but nothing tells how many "
            "pods there are: a world of one. Set WORLD_SIZE to the Job's completions for more."
        )
    if in_ray_worker(environ):
        yield (
            "A Ray worker without RANK: a world of one. Ray Train's workers have it; for actors of "
            "your own, set RANK and WORLD_SIZE."
        )
    address = [name for name in ("MASTER_ADDR", "MASTER_PORT") if environ.get(name)]
    if address:
        yield f"Ignored {shown(environ, address)}: no RANK and WORLD_SIZE, a world of one."


READER = Reader("single", read, None)
