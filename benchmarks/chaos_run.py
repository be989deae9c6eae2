"""One random program under way: its processes, and what the harness does to them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allranks._system import sockets
from chaos_judge import Played
from chaos_leftovers import files_left, processes_in, state
from chaos_oracle import Rank
from chaos_programs import RENDEZVOUS, TIMEOUT

if TYPE_CHECKING:
    from chaos_programs import Program

HERE = Path(__file__).parent
NURSERY, WORKER = str(HERE / "chaos_nursery.py"), str(HERE / "chaos_worker.py")

DEADLINE = TIMEOUT.total_seconds() + RENDEZVOUS.total_seconds() + 25.0
"""Seconds after which a program is ended, whatever its processes do."""

SETTLE = 3.0
"""Seconds in which what a job has left may still go, once its ranks have ended."""

LET_BE = 6.0
"""Seconds for a launcher to end a stopped rank, when the others have given up."""

PASSED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
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
    _killed: float | None = None
    _sent: float | None = None

    def start(self) -> None:
        """Start its processes."""
        for name in ("work", "tmp", "diary"):
            (self.top / name).mkdir()
        launcher, ranks = self.program.launcher, self.program.ranks
        least, most = self.program.among
        arguments = [str(self.program.seed), f"{least}-{most}", str(self.top / "diary")]
        if launcher == "run":
            command = ["allranks", "run", "--no-fold", "-n", str(ranks), WORKER, *arguments]
            self._order("run", command, {})
        elif launcher == "launch":
            self._order("launch", [WORKER, *arguments], {}, ranks=ranks)
        else:
            port = sockets.free_port()
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
                send(pid, signal.SIGKILL)
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
        elif kind == "Ctrl-C" and self._sent is None:
            lines = self._diary(self.program.fault.rank)
            told = [line for line in lines if line["what"] == "fault"]
            if told and time.monotonic() >= told[0]["at"] + told[0]["delay"]:
                self._interrupt()

    def _interrupt(self) -> None:
        """Ctrl-C, to all that run; the faulty rank waits for the mark."""
        self._sent = time.monotonic()
        (self.top / "diary" / "sent").touch()
        for pid in self._running().values():
            send(pid, signal.SIGINT)

    def _tend_the_stopped(self, kind: str) -> None:
        victim = next((one for one in self._diary(self.program.fault.rank)), None)
        if victim is None or not state(victim["pid"]).startswith("T"):
            return
        now = time.monotonic()
        self._stopped = self._stopped or now
        if kind == "stop and go on":
            if now > self._stopped + self.program.fault.seconds:
                send(victim["pid"], signal.SIGCONT)
        elif self._others_are_over():
            self._given_up = self._given_up or now
            if self.program.launcher == "env" or now > self._given_up + LET_BE:
                self._killed = self._killed or now
                send(victim["pid"], signal.SIGKILL)

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
        stores = {Path(told["store"]) for one in ranks for told in one.told("pid") if told["store"]}
        return Played(
            ranks=tuple(ranks),
            output="".join(self._output(name) for name in ("run", "launch") if name in ends),
            status=whole.get("status"),
            error=whole.get("error"),
            ended=max((end["at"] for end in ends.values() if end), default=time.monotonic()),
            late=late,
            processes=left,
            files=tuple(files_left(self.top, stores)),
            held=whole.get("held", {}),
            killed=self._killed,
            sent=self._sent,
        )

    def _rank(self, rank: int, end: dict[str, Any]) -> Rank:
        output = self._output(f"rank-{rank}")
        return Rank(rank, self._diary(rank), output, end.get("status"), end.get("at"))

    def _output(self, name: str) -> str:
        path = self.top / f"{name}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def _processes_left(self) -> dict[int, str]:
        """What still runs in the job's directory, after a moment; it is ended."""
        end = time.monotonic() + SETTLE
        while (left := processes_in(self.top)) and time.monotonic() < end:
            time.sleep(0.05)
        told = {pid: f"process {pid}, {state(pid)}" for pid in left}
        for pid in left:
            send(pid, signal.SIGKILL)
        return told


def _env(program: Program, rank: int, port: int) -> dict[str, str]:
    """The variables of a rank of a job that only knows ``env://``."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(program.ranks),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": sockets.LOOPBACK,
        "MASTER_PORT": str(port),
        "ALLRANKS_JOB": f"chaos-{program.seed}-{port}",
        "RES_OPTIONS": "timeout:1 attempts:1",  # torch's store looks up the names of its peers.
    }


def send(pid: int, signum: int) -> None:
    """Send a signal to a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
