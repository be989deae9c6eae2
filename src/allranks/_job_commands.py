"""The commands about a job: ``doctor`` and ``bench`` before it, ``status`` and ``dump`` within."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from allranks._bench.plan import COLLECTIVES, Plan, bytes_of
from allranks.errors import AllranksError

OF = click.option(
    "--job",
    "of",
    metavar="TEXT",
    default="",
    help="Only jobs with this in their name or command line, or as a process of this host.",
)


@click.command()
@OF
@click.option("--follow", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--stacks", is_flag=True, help="Show where each program stands, line by line.")
@click.option("--verdict", is_flag=True, help="Tell why ranks wait, as after a stall.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(of: str, follow: bool, stacks: bool, verdict: bool, as_json: bool) -> None:
    """Show where each rank stands, of your jobs that have ranks on this host.

    It asks one rank of a job, which asks the others; nothing has to be set up in the program.
    Ranks that stand alike are one row. ALLRANKS_STATUS=0 around a job keeps it from answering.
    """
    from allranks._status.command import follow_jobs, print_jobs, print_json

    if follow and as_json:
        raise click.UsageError("--follow draws a table, and --json prints none: choose one")
    if as_json:
        print_json(of, verdict=verdict)
    elif follow:
        follow_jobs(of, stacks=stacks, verdict=verdict)
    else:
        print_jobs(of, stacks=stacks, verdict=verdict)


@click.command()
@OF
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def dump(of: str, directory: Path | None) -> None:
    """Write where each rank stands, of your jobs with ranks on this host, into DIRECTORY.

    It asks as `status --verdict` does, and for the last calls and the threads of each rank:
    rank-N.json, job.json, verdict.txt, and index.html, a page that shows who waits for whom and
    who came late, and needs no network. DIRECTORY must be empty; without, one is made.
    """
    from allranks._status.command import dump_jobs

    try:
        dump_jobs(of, directory)
    except (AllranksError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _size(_: click.Context, __: click.Parameter, value: str) -> int:
    """A number of bytes, such as ``64K``."""
    try:
        return bytes_of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option(
    "-b",
    "--min-bytes",
    metavar="SIZE",
    callback=_size,
    default="4",
    help="Smallest size; default 4.",
)
@click.option(
    "-e",
    "--max-bytes",
    metavar="SIZE",
    callback=_size,
    default="256M",
    help="Largest; default 256M.",
)
@click.option("-f", "--step-factor", type=click.IntRange(min=2), default=4, help="Default 4.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    help="How long each collective is measured at each size; default 0.5.",
)
@click.option(
    "--collective",
    "collectives",
    type=click.Choice(COLLECTIVES),
    multiple=True,
    help="Measure this one only; may be repeated.",
)
@click.option("--no-pairs", is_flag=True, help="Leave out the matrix of pairs.")
@click.option("--cpu", is_flag=True, help="Use the CPU where there is an accelerator, too.")
@click.option("--json", "json_file", metavar="FILE", help="Write all figures there; - is stdout.")
@click.option("--compare", type=click.Path(path_type=Path), help="JSON of an earlier run.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default="allranks-bench",
    help="Write it there as .png and .svg; default allranks-bench.",
)
@click.option("--no-picture", is_flag=True, help="Draw none.")
def bench(
    min_bytes: int,
    max_bytes: int,
    step_factor: int,
    seconds: float,
    collectives: tuple[str, ...],
    no_pairs: bool,
    cpu: bool,
    json_file: str | None,
    compare: Path | None,
    picture: Path,
    no_picture: bool,
) -> None:
    """Time the collectives and each pair of ranks; start it as you start the job.

    Our calls and torch's take turns on the group's own backend, at sizes as nccl-tests count
    them: allranks run -n 4 -m allranks bench -e 1M
    """
    from allranks._bench.command import Outputs
    from allranks._bench.command import bench as measure_and_tell

    if min_bytes > max_bytes:
        raise click.UsageError(f"--min-bytes {min_bytes} is above --max-bytes {max_bytes}")
    chosen = collectives or COLLECTIVES
    plan = Plan(chosen, min_bytes, max_bytes, step_factor, seconds, pairs=not no_pairs)
    to_stdout = json_file == "-"
    outputs = Outputs(
        json=Path(json_file) if json_file and not to_stdout else None,
        to_stdout=to_stdout,
        compare=compare,
        picture=None if no_picture else picture,
    )
    try:
        measure_and_tell(plan, outputs, cpu=cpu)
    except AllranksError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=10),
    default=60.0,
    show_default=True,
    help="Seconds that it may take.",
)
def doctor(as_json: bool, timeout: float) -> None:
    """Look at a job before it runs: what would end it, and what to type against that.

    Start it as the job is started; rank 0 prints one table for all ranks, and the exit code is 1
    if the job would fail:

    \b
        srun -N2 --ntasks-per-node=4 allranks doctor
        torchrun --nproc-per-node=4 -m allranks doctor
    """  # noqa: D301 - click looks for this character
    from allranks._doctor.command import run_doctor

    run_doctor(timeout, json=as_json)
