"""Random programs of collectives, with a random fault in each, on real ranks.

Each program runs 2 to 4 ranks, or as many as are asked for, under `allranks run`, with the
variables of ``env://`` alone, or under `allranks.launch`. Checked each time: no wrong number; every
rank ends in time, with the right rank's name, or goes on where it should; exit codes; nothing left
behind. A seed repeats a program, which ``chaos_run.py`` runs; ``chaos_judge.py`` says what is wrong
with it.

    python benchmarks/chaos.py
    python benchmarks/chaos.py --programs 500 --keep-going
    python benchmarks/chaos.py --seed 4711 --programs 1
    python benchmarks/chaos.py --ranks 4-16
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress

import chaos_judge
from chaos_leftovers import processes_in
from chaos_programs import FAULTS, LAUNCHERS, RANKS, drawn, range_of
from chaos_run import Nursery, Run, send

if TYPE_CHECKING:
    from chaos_judge import Played
    from chaos_programs import Program


class Place:
    """Where one program runs after the other."""

    def __init__(self) -> None:
        self._nurseries: dict[str, Nursery] = {}

    def play(self, program: Program) -> tuple[Played, list[str]]:
        """Run a program; what came back, and what is wrong with it."""
        way = "launch" if program.launcher == "launch" else "fork"
        if way not in self._nurseries:
            self._nurseries[way] = Nursery(way)
        top = Path(tempfile.mkdtemp(prefix=f"chaos-{program.seed}-"))
        run = Run(program, self._nurseries[way], top)
        try:
            run.start()
            late = run.watch()
            played = run.outcome(late)
        finally:
            for pid in set(processes_in(top)) - {one.pid for one in self._nurseries.values()}:
                send(pid, signal.SIGKILL)
            shutil.rmtree(top, ignore_errors=True)
        if late and way == "launch":
            self._nurseries.pop(way).close()
        return played, chaos_judge.complaints(program, played)

    def close(self) -> None:
        """End what runs here."""
        for nursery in self._nurseries.values():
            nursery.close()


def command(among: tuple[int, int], programs: int, seed: int) -> str:
    """What repeats programs."""
    ranks = "" if among == RANKS else f" --ranks {among[0]}-{among[1]}"
    return f"python benchmarks/chaos.py --programs {programs} --seed {seed}{ranks}"


def report(program: Program, played: Played, wrong: list[str]) -> str:
    """All that is known of a program that went wrong."""
    lines = [
        command(program.among, 1, program.seed),
        *(f"  WRONG: {one}" for one in wrong),
        *(f"  {line}" for line in str(program).splitlines()),
        f"  launcher's exit code: {played.status}; raised: {played.error}",
    ]
    since = min((rank.diary[0]["at"] for rank in played.ranks if rank.diary), default=0.0)
    for rank in played.ranks:
        ended = f", {rank.ended - since:.2f} s" if rank.ended else ""
        lines.append(f"  rank {rank.number}: exit code {rank.status}{ended}")
        lines += [f"    {_line(line, since)}" for line in rank.diary[-12:]]
        lines += [f"    > {line[:1000]}" for line in rank.output.splitlines()[-40:]]
    lines += [f"  > {line[:1000]}" for line in played.output.splitlines()[-80:]]
    return "\n".join(lines)


def _line(line: dict[str, Any], since: float) -> str:
    facts = " ".join(f"{k}={v}" for k, v in line.items() if k not in ("what", "at") and v != "")
    return f"{line['at'] - since:.3f} {line['what']} {facts:.600}"


def run_all(programs: list[Program], jobs: int, *, keep_going: bool) -> int:
    """Run these programs; how many went wrong."""
    console, places = Console(highlight=False), SimpleQueue[Place]()
    opened = [Place() for _ in range(jobs)]
    for one in opened:
        places.put(one)
    failed: list[int] = []
    faults: list[bool] = []

    def play(program: Program) -> None:
        if failed and not keep_going:
            return
        place, began = places.get(), time.monotonic()
        try:
            played, wrong = place.play(program)
        finally:
            places.put(place)
        seconds = time.monotonic() - began
        if program.fault.kind != "none":
            faults.append(chaos_judge.struck(program, played))
        said = f"{program.seed}: {program.launcher}, {program.fault}: "
        if wrong:
            failed.append(program.seed)
            console.print(report(program, played, wrong), markup=False, soft_wrap=True)
        if wrong or not console.is_terminal:
            said += f"{'WRONG' if wrong else 'ok'}, {seconds:.1f} s"
            console.print(said, markup=False, soft_wrap=True)
        bar.advance(task)

    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("programs", total=len(programs))
            with ThreadPoolExecutor(jobs) as pool:
                # One at a time stays on this thread, where Ctrl-C ends it at once.
                list((pool.map if jobs > 1 else map)(play, programs))
    finally:
        for one in opened:
            one.close()
    console.print(f"{sum(faults)} of {len(faults)} faults struck")
    if failed:
        console.print(f"{len(failed)} programs went wrong: {' '.join(map(str, failed))}")
    else:
        console.print(f"{len(programs)} programs ran as they should")
    return len(failed)


def main() -> None:
    """Run programs, and say which went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--seed", type=int, help="of the first one; each further one is one more")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at once (1)")
    parser.add_argument("--keep-going", action="store_true", help="after one went wrong, too")
    parser.add_argument("--fault", choices=FAULTS, help="only programs with this fault")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="only programs under this launcher")
    parser.add_argument(
        "--ranks", type=range_of, default=RANKS, metavar="N-N", help="how many ranks each has (2-4)"
    )
    options = parser.parse_args()
    first = random.randrange(10**6) if options.seed is None else options.seed
    print(command(options.ranks, options.programs, first), flush=True)
    wanted = (
        program
        for program in (drawn(seed, options.ranks) for seed in itertools.count(first))
        if options.fault in (None, program.fault.kind)
        and options.launcher in (None, program.launcher)
    )
    programs = list(itertools.islice(wanted, options.programs))
    sys.exit(1 if run_all(programs, options.jobs, keep_going=options.keep_going) else 0)


if __name__ == "__main__":
    main()
