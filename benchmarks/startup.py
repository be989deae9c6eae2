"""How long ``allranks run``, torchrun and ``torch.multiprocessing.spawn`` take to the first step.

Every command is measured from outside, as typed: from its start to the first collective and to
the first DDP + optimizer step of its slowest rank, with the memory of all its processes. The
commands take turns, so that what else the machine does meets them alike.

    python benchmarks/startup.py
    python benchmarks/startup.py --ranks 2 --repeats 1
    python benchmarks/startup.py --markdown docs/benchmarks.md
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import Progress

from startup_job import measure
from startup_tables import IMPORT, OURS, Results, machine

if TYPE_CHECKING:
    from startup_job import Sample

HERE = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
WORKER = str(HERE / "startup_worker.py")
SPAWN_AT = 4
"""The number of ranks at which ``allranks run --spawn`` is measured too."""

METHOD = """\
# Benchmarks

Written by `python benchmarks/startup.py --markdown docs/benchmarks.md`; `make bench` prints the
same tables.

## Starting N ranks

Measured on {machine}.
Rounds: {rounds}, after one warm-up. Load of the machine when it began: {load:.1f}. Processes of
other programs that shared torch's library in memory, which lowers every PSS: at most {strangers}.

- Each command is measured from outside, as typed: `allranks run -n N worker.py`,
  `torchrun --standalone --nproc-per-node N worker.py`, a script that calls
  `torch.multiprocessing.spawn` for N processes, and `python worker.py` that only imports torch.
- The worker is one script. It brings a gloo group up (`allranks.setup(cpu=True)` under
  `allranks run`, `init_process_group("gloo")` under the others), sums a one from every rank, and
  does one step of a small network with DDP and AdamW, on the CPU and one thread.
- A time runs from the start of the command to the moment when the slowest rank is done.
- The memory is the PSS (each page shared by n processes counts 1/n in each), summed over all
  processes of the command, launcher included, while all ranks wait after that step. 1 MB is
  10^6 bytes.
- The commands take turns in each round. Ratios and differences are made within a round; what is
  shown is their median.
- `allranks run --spawn` starts fresh interpreters, for programs that cannot be forked.
- Every command gets the same clean environment, with `OMP_NUM_THREADS=1`.

![What allranks run takes of torchrun's time and memory](pictures/startup.svg)

"""


class Case(NamedTuple):
    """A command, by its name in the tables, and how many ranks it starts."""

    name: str
    ranks: int

    def command(self) -> list[str]:
        """Its command line."""
        n = str(self.ranks)
        allranks = [str(SCRIPTS / "allranks"), "run", "-n", n]
        return {
            OURS: [*allranks, WORKER, "allranks"],
            f"{OURS} --spawn": [*allranks, "--spawn", WORKER, "allranks"],
            "torchrun": [
                str(SCRIPTS / "torchrun"),
                "--standalone",
                "--nproc-per-node",
                n,
                WORKER,
                "torch",
            ],
            "mp.spawn": [sys.executable, str(HERE / "startup_spawn.py"), n],
            IMPORT: [sys.executable, WORKER, "import"],
        }[self.name]


def cases(ranks: list[int]) -> list[Case]:
    """All that is measured in one round.

    Args:
        ranks: the numbers of ranks.
    """
    some = [Case(IMPORT, 1)]
    for n in ranks:
        some += [Case(OURS, n), Case("torchrun", n), Case("mp.spawn", n)]
        if n == SPAWN_AT:
            some.append(Case(f"{OURS} --spawn", n))
    return some


def run(ranks: list[int], repeats: int, console: Console) -> Results:
    """Measure all cases in turn.

    Args:
        ranks: the numbers of ranks.
        repeats: how many rounds count.
        console: where the progress is shown.
    """
    samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    warm_up, each = cases(ranks[:1]), cases(ranks)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(warm_up) + repeats * len(each))
        for at, case in enumerate(warm_up + each * repeats):
            progress.update(task, description=f"{case.ranks} x {case.name}")
            sample = measure(case.command(), case.ranks)
            progress.advance(task)
            if at >= len(warm_up):
                samples[case].append(sample)
    return Results(samples)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=numbers, default=[1, 2, 4, 8], help="default: 1,2,4,8")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count; default: 3")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page here too")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    """The numbers in a list such as "1,2,4", in order.

    Args:
        text: the list.
    """
    return sorted({int(number) for number in text.split(",")})


def main() -> None:
    """Measure, print, and write the page."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    load = os.getloadavg()[0]
    results = run(options.ranks, options.repeats, console)
    grids = results.grids()
    console.print(machine())
    for grid in grids:
        console.print(grid.rich())
    if options.markdown:
        method = METHOD.format(
            machine=machine(), rounds=results.rounds, load=load, strangers=results.strangers
        )
        options.markdown.write_text(method + "\n".join(grid.markdown() for grid in grids))


if __name__ == "__main__":
    main()
