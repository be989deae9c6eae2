"""Random programs of collectives, with a random fault in each, on real ranks.

Each program runs 2 to 4 ranks under `allranks run`, with the variables of ``env://`` alone, or
under `allranks.launch`. Checked each time: no wrong number; every rank ends in time, with the
right rank's name, or goes on where it should; exit codes; nothing left behind. What is right is
in ``chaos_judge.py``; a seed repeats a program.

    python benchmarks/chaos.py
    python benchmarks/chaos.py --programs 500 --keep-going
    python benchmarks/chaos.py --seed 4711 --programs 1
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import chaos_judge
from chaos_judge import Played
from chaos_oracle import Rank
from chaos_programs import FAULTS, LAUNCHERS, RENDEZVOUS, TIMEOUT, drawn
from rich.console import Console
from rich.progress import Progress

from allranks import _sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos_programs import Program

HERE = Path(__file__).parent
NURSERY, WORKER = str(HERE / "chaos_nursery.py"), str(HERE / "chaos_worker.py")

DEADLINE = TIMEOUT.total_seconds() + RENDEZVOUS.total_seconds() + 25.0
"""Seconds after which a program is ended, whatever its processes do."""

SETTLE = 3.0
"""Seconds in which what a job has left may still go, once its ranks have ended."""

LET_BE = 6.0
"""Seconds for a launcher to end a stopped rank, when the others have given up."""

PASSED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""Of our own environment; no launcher's variables."""


class Nursery:
    """The warm process that starts a program's processes, and what it tells of them."""

    def __init__(self, way: str) -> None:
        environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, NURSERY, way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environ, "OMP_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        pipes: Any = self._process
        self._orders, self._answers = pipes.stdin, pipes.stdout
        self._text = b""
        self.pids: dict[str, int] = {}
        self.ends: dict[int, dict[str, Any]] = {}
        self._ready = False
        while not self._ready:
            self.listen(60.0)

    def order(self, name: str, **facts: Any) -> int:
        """Have a process started; gives its pid."""
        self.pids.pop(name, None)
        self._orders.write(f"{json.dumps({'name': name, **facts})}\n".encode())
        while name not in self.pids:
            self.listen(60.0)
        self.ends.pop(self.pids[name], None)
        return self.pids[name]

    def listen(self, seconds: float) -> None:
        """Hear what it tells, within these seconds."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return
        text = os.read(self._answers.fileno(), 65536)
        if not text:
            raise RuntimeError("the nursery has ended")
        *lines, self._text = (self._text + text).split(b"\n")
        for line in lines:
            told = json.loads(line)
            self._ready = self._ready or "ready" in told
            if "name" in told:
                self.pids[told["name"]] = told["pid"]
            elif "pid" in told:
                self.ends[told["pid"]] = told

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        self._process.kill()
        self._process.wait()


@dataclass
class Run:
    """A program under way."""

    program: Program
    nursery: Nursery
    top: Path
    pids: dict[str, int] = field(default_factory=dict)
    _stopped: float | None = None
    _given_up: float | None = None
    _interrupted: bool = False

    def start(self) -> None:
        """Start its processes."""
        for name in ("work", "tmp", "diary"):
            (self.top / name).mkdir()
        launcher, ranks = self.program.launcher, self.program.ranks
        arguments = [str(self.program.seed), str(self.top / "diary")]
        if launcher == "run":
            command = ["allranks", "run", "-n", str(ranks), WORKER, *arguments]
            self._order("run", command, {})
        elif launcher == "launch":
            self._order("launch", [WORKER, *arguments], {}, ranks=ranks)
        else:
            port = _sockets.free_port()
            for rank in range(ranks):
                self._order(f"rank-{rank}", [WORKER, *arguments], _env(self.program, rank, port))

    def _order(self, name: str, argv: list[str], environ: dict[str, str], **more: Any) -> None:
        self.pids[name] = self.nursery.order(
            name,
            argv=argv,
            directory=str(self.top / "work"),
            output=str(self.top / f"{name}.txt"),
            environ={**environ, **self.program.environ, "TMPDIR": str(self.top / "tmp")},
            **more,
        )

    def watch(self) -> tuple[str, ...]:
        """Wait until all processes have ended; those that had to be ended, in words."""
        end = time.monotonic() + DEADLINE
        while self._running() and time.monotonic() < end:
            self.nursery.listen(0.01)
            self._tend()
        late = tuple(f"{name} (pid {pid}), {state(pid)}" for name, pid in self._running().items())
        if late and self.program.launcher == "launch":
            self.nursery.close()  # With it goes its template, and so go the ranks.
        elif late:
            for pid in self._running().values():
                _signal(pid, signal.SIGKILL)
            while self._running():
                self.nursery.listen(1.0)
        return late

    def _running(self) -> dict[str, int]:
        return {name: pid for name, pid in self.pids.items() if pid not in self.nursery.ends}

    def _tend(self) -> None:
        """Do the part of the fault that comes from outside."""
        kind = self.program.fault.kind
        if kind in ("stop", "stop and go on"):
            self._tend_the_stopped(kind)
        elif kind == "Ctrl-C" and not self._interrupted:
            told = [
                line for line in self._diary(self.program.fault.rank) if line["what"] == "fault"
            ]
            if told and time.monotonic() >= told[0]["at"] + told[0]["delay"]:
                self._interrupted = True
                for pid in self._running().values():
                    _signal(pid, signal.SIGINT)

    def _tend_the_stopped(self, kind: str) -> None:
        victim = next((one for one in self._diary(self.program.fault.rank)), None)
        if victim is None or not state(victim["pid"]).startswith("T"):
            return
        now = time.monotonic()
        self._stopped = self._stopped or now
        if kind == "stop and go on":
            if now > self._stopped + self.program.fault.seconds:
                _signal(victim["pid"], signal.SIGCONT)
        elif self._others_are_over():
            self._given_up = self._given_up or now
            if self.program.launcher == "env" or now > self._given_up + LET_BE:
                _signal(victim["pid"], signal.SIGKILL)

    def _others_are_over(self) -> bool:
        if self.program.launcher == "env":
            return set(self._running()) <= {f"rank-{self.program.fault.rank}"}
        others = [rank for rank in range(self.program.ranks) if rank != self.program.fault.rank]
        over = {"error", "done"}
        return all(any(line["what"] in over for line in self._diary(one)) for one in others)

    def _diary(self, rank: int) -> tuple[dict[str, Any], ...]:
        with contextlib.suppress(FileNotFoundError):
            text = (self.top / "diary" / f"rank-{rank}.jsonl").read_text()
            return tuple(
                json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n"
            )
        return ()

    def outcome(self, late: tuple[str, ...]) -> Played:
        """What came back, once all has ended."""
        ends = {name: self.nursery.ends.get(pid, {}) for name, pid in self.pids.items()}
        ranks = [
            self._rank(rank, ends.get(f"rank-{rank}", {})) for rank in range(self.program.ranks)
        ]
        whole = next((ends[name] for name in ("run", "launch") if name in ends), {})
        left = self._processes_left()
        return Played(
            ranks=tuple(ranks),
            output="".join(self._output(name) for name in ("run", "launch") if name in ends),
            status=whole.get("status"),
            error=whole.get("error"),
            ended=max((end["at"] for end in ends.values() if end), default=time.monotonic()),
            late=late,
            processes=tuple(left),
            files=tuple(self._files_left(ranks)),
            held=whole.get("held", 0),
        )

    def _rank(self, rank: int, end: dict[str, Any]) -> Rank:
        output = self._output(f"rank-{rank}")
        return Rank(rank, self._diary(rank), output, end.get("status"), end.get("at"))

    def _output(self, name: str) -> str:
        path = self.top / f"{name}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def _processes_left(self) -> list[str]:
        """What still runs in the job's directory, after a moment; it is ended."""
        end = time.monotonic() + SETTLE
        while (left := processes_in(self.top)) and time.monotonic() < end:
            time.sleep(0.05)
        told = [f"process {pid}, {state(pid)}" for pid in left]
        for pid in left:
            _signal(pid, signal.SIGKILL)
        return told

    def _files_left(self, ranks: list[Rank]) -> Iterator[str]:
        for name in ("work", "tmp"):
            for path in (self.top / name).rglob("*"):
                yield f"file {path.relative_to(self.top)}"
        stores = {
            Path(told["store"]) for rank in ranks for told in rank.told("pid") if told["store"]
        }
        for store in stores:
            if store.parent.exists():
                yield f"directory {store.parent}"


def _env(program: Program, rank: int, port: int) -> dict[str, str]:
    """The variables of a rank of a job that only knows ``env://``."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(program.ranks),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": _sockets.LOOPBACK,
        "MASTER_PORT": str(port),
        "ALLRANKS_JOB": f"chaos-{program.seed}-{port}",
        "RES_OPTIONS": "timeout:1 attempts:1",  # torch's store looks up the names of its peers.
    }


def state(pid: int) -> str:
    """How a process is, and what it is, as the kernel says."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    letter, parent = text.rpartition(")")[2].split()[:2]
    return f"{letter} (parent {parent}): {command[:100]}"


def processes_in(top: Path) -> list[int]:
    """The processes that work in a directory: all that a job has started, and their forks."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(top):
                found.append(int(entry.name))
    return found


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


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
                _signal(pid, signal.SIGKILL)
            shutil.rmtree(top, ignore_errors=True)
        if late and way == "launch":
            self._nurseries.pop(way).close()
        return played, chaos_judge.complaints(program, played)

    def close(self) -> None:
        """End what runs here."""
        for nursery in self._nurseries.values():
            nursery.close()


def report(program: Program, played: Played, wrong: list[str]) -> str:
    """All that is known of a program that went wrong."""
    lines = [
        f"python benchmarks/chaos.py --programs 1 --seed {program.seed}",
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


def run_all(seeds: list[int], jobs: int, *, keep_going: bool) -> int:
    """Run the programs of these seeds; how many went wrong."""
    console, places = Console(highlight=False), SimpleQueue[Place]()
    opened = [Place() for _ in range(jobs)]
    for one in opened:
        places.put(one)
    failed: list[int] = []

    def play(seed: int) -> None:
        if failed and not keep_going:
            return
        program, place, began = drawn(seed), places.get(), time.monotonic()
        try:
            played, wrong = place.play(program)
        finally:
            places.put(place)
        seconds = time.monotonic() - began
        said = f"{seed}: {program.launcher}, {program.fault}: "
        if wrong:
            failed.append(seed)
            console.print(report(program, played, wrong), markup=False, soft_wrap=True)
        if wrong or not console.is_terminal:
            said += f"{'WRONG' if wrong else 'ok'}, {seconds:.1f} s"
            console.print(said, markup=False, soft_wrap=True)
        bar.advance(task)

    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("programs", total=len(seeds))
            with ThreadPoolExecutor(jobs) as pool:
                # One at a time stays on this thread, where Ctrl-C ends it at once.
                list((pool.map if jobs > 1 else map)(play, seeds))
    finally:
        for one in opened:
            one.close()
    if failed:
        console.print(f"{len(failed)} programs went wrong: {' '.join(map(str, failed))}")
    else:
        console.print(f"{len(seeds)} programs ran as they should")
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
    options = parser.parse_args()
    first = random.randrange(10**6) if options.seed is None else options.seed
    print(f"python benchmarks/chaos.py --programs {options.programs} --seed {first}", flush=True)
    wanted = (
        seed
        for seed in itertools.count(first)
        if options.fault in (None, drawn(seed).fault.kind)
        and options.launcher in (None, drawn(seed).launcher)
    )
    seeds = list(itertools.islice(wanted, options.programs))
    sys.exit(1 if run_all(seeds, options.jobs, keep_going=options.keep_going) else 0)


if __name__ == "__main__":
    main()
