"""What plain torch and allranks say when something befalls one of four ranks, and after how long.

Nothing is faked: the processes are killed, stopped, and cut off. Each rank is started by hand with
the variables of ``env://``, so that no launcher ends the others. Two network namespaces stand for
two hosts, which takes root and Linux.

    python benchmarks/faults.py
    python benchmarks/faults.py --only SIGKILL
    python benchmarks/faults.py --markdown docs/failures.md
    python benchmarks/faults.py --backend nccl      # on four GPUs; never run yet
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from allranks._system import sockets
from faults_worker import FAULTS, RENDEZVOUS, STALL_AFTER, TIMEOUT, VICTIM
from startup_tables import Grid, machine, put_into

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORKER = str(Path(__file__).with_name("faults_worker.py"))
RANKS = 4
DEADLINE = 90.0
"""Seconds after which a run is ended, whatever its ranks do."""

AT_ONCE = 2.0
STALL = STALL_AFTER.total_seconds() + 3.0
AT_START = RENDEZVOUS.total_seconds() + 3.0

CUT, INTERRUPT = "the network is cut, and comes back", "Ctrl-C, while a rank is stopped"
MISSING = "a rank is missing at the start"
CUT_FOR = 12.0

DIED = r"rank 2 \(pid \d+ on \S+\) "
AWAY = r"Rank 2: in no collective, at faults_worker.py:\d+ in "

EXPECTED: dict[str, tuple[str, float, bool]] = {
    "an exception": (DIED + "failed: LookupError: no shard 7, at faults_worker", AT_ONCE, False),
    "an exception is caught, the rank lives on": (AWAY + "live_on", STALL, False),
    "sys.exit(0), early": (DIED + "has left: its program ended with exit code 0", AT_ONCE, False),
    "SIGKILL": (DIED + "was killed by SIGKILL", AT_ONCE, False),
    "SIGSTOP": (r"Rank 2: no answer .*; its process is stopped", STALL, False),
    "SIGTERM": (DIED + "was killed by SIGTERM", AT_ONCE, False),
    "segmentation fault": (DIED + "was killed by SIGSEGV", AT_ONCE, False),
    "out of memory": (DIED + "failed: RuntimeError: .*memory", AT_ONCE, False),
    MISSING: (r"1 of 4 ranks did not come within 8 s: 2\.", AT_START, False),
    "a slow rank": (AWAY + "be_slow", STALL, True),
    "another collective": (r"[Rr]ank 2: (in )?broadcast float32", STALL, False),
    "groups in another order": (r"They wait in different groups", STALL, False),
    "a skipped call": (AWAY + "skipped_call", STALL, False),
    "DDP, uneven batches": (AWAY + "uneven_batches", STALL, False),
    "rank 0 prepares for long": ("", 0.0, True),
    INTERRUPT: (r"Rank 2: no answer .*; its process is stopped", 3.0, False),
    CUT: (r"Ranks 2-3: no answer from \S+\.", STALL, True),
}
"""What allranks must say of each fault, within how many seconds, and whether the job goes on."""

ERROR = re.compile(r"(\[rank\d\]: )?[\w.]+(Error|Interrupt)\b")


@dataclass
class Rank:
    """A process, and what it writes to its standard error."""

    number: int
    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    ended: float = 0.0

    def listen(self) -> None:
        """Note each line with its time, to the end."""
        for line in self.process.stderr or ():
            self.lines.append((time.monotonic(), line.rstrip()))
        self.process.wait()
        self.ended = time.monotonic()


@dataclass(frozen=True)
class Told:
    """How a run went.

    Attributes:
        said: the line that tells most, or what happened instead.
        after: seconds from the fault to it.
        seconds: from the fault to the end of the last rank that nothing befell.
        done: whether all ranks finished their steps.
        left: how many ranks that nothing befell were still there at the deadline.
    """

    said: str
    after: float
    seconds: float
    done: bool
    left: int


@contextlib.contextmanager
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces, joined by a cable; gives their names."""
    names = [f"faults{os.getpid()}{side}" for side in "ab"]
    cable = [f"cut{side}{os.getpid() % 10000}" for side in "ab"]
    for name in names:
        _ip("netns", "add", name)
    try:
        ends = ("peer", "name", cable[1], "netns", names[1])
        _ip("link", "add", cable[0], "netns", names[0], "type", "veth", *ends)
        for name, end, host in zip(names, cable, (1, 2), strict=True):
            _ip("-n", name, "addr", "add", f"10.88.0.{host}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)  # noqa: S607 - wherever the system has it


def _cable(name: str, state: str) -> None:
    """Cut the cable between the hosts, or mend it: their end goes down or up."""
    _ip("-n", name, "link", "set", f"cuta{os.getpid() % 10000}", state)


def start(fault: str, library: str, backend: str, hosts: Sequence[str]) -> list[Rank]:
    """Start the ranks by hand."""
    port = str(sockets.free_port())
    ranks = []
    for number in range(RANKS):
        if fault == MISSING and number == VICTIM:
            continue
        command = [
            sys.executable,
            str(Path(__file__).with_name("faults_worker.py")),
            fault,
            library,
        ]
        environ = {**os.environ, "RANK": str(number), "WORLD_SIZE": str(RANKS)}
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        environ |= {"LOCAL_RANK": str(number), "BACKEND": backend}
        if hosts:
            host = number // 2
            command = ["ip", "netns", "exec", hosts[host], *command]
            environ["GLOO_SOCKET_IFNAME"] = f"cut{'ab'[host]}{os.getpid() % 10000}"
            environ["MASTER_ADDR"] = "10.88.0.1"
        process = subprocess.Popen(command, env=environ, text=True, stderr=subprocess.PIPE)
        rank = Rank(number, process)
        threading.Thread(target=rank.listen, daemon=True).start()
        ranks.append(rank)
    return ranks


def run(fault: str, library: str, backend: str) -> Told:
    """Let a fault befall a job, and hear what its ranks say."""
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(two_hosts()) if fault == CUT else []
        ranks = start(fault, library, backend, hosts)
        try:
            since = _fault_at(ranks)
            if fault == CUT:
                _cable(hosts[0], "down")
                mend = threading.Timer(CUT_FOR, _cable, (hosts[0], "up"))
                mend.start()
            if fault == INTERRUPT:
                time.sleep(STALL + 1.0)
                interrupted = time.monotonic()
                for rank in ranks:
                    rank.process.send_signal(signal.SIGINT)
            others = [rank for rank in ranks if rank.number != VICTIM or EXPECTED[fault][2]]
            _wait(others)
            left = sum(rank.ended == 0.0 for rank in others)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.wait()
    told = _told(fault, library, others, since, left)
    if fault == INTERRUPT:
        return replace(told, after=max(rank.ended for rank in others) - interrupted)
    return told


def _fault_at(ranks: Sequence[Rank]) -> float:
    """When the fault happened."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        times = [at for rank in ranks for at, line in rank.lines if line == "FAULT"]
        if times:
            return min(times)
        time.sleep(0.01)
    raise TimeoutError("the fault did not happen")


def _wait(ranks: Sequence[Rank]) -> None:
    end = time.monotonic() + DEADLINE
    while any(rank.ended == 0.0 for rank in ranks) and time.monotonic() < end:
        time.sleep(0.05)


def _told(fault: str, library: str, ranks: Sequence[Rank], since: float, left: int) -> Told:
    wanted = EXPECTED[fault][0] if library == "allranks" else ""
    heard = sorted((at, line) for rank in ranks for at, line in rank.lines if line and at >= since)
    done = all(any(line == "DONE" for _, line in rank.lines) for rank in ranks)
    named = [(at, line) for at, line in heard if wanted and re.search(wanted, line)]
    errors = [
        (at, line) for at, line in heard if re.match(r"(\[rank\d\]: )?[\w.]+(Error|rupt)\b", line)
    ]
    at, line = (named or errors or [(since, "nothing; the job goes on" if done else "nothing")])[0]
    ended = max(rank.ended or time.monotonic() for rank in ranks)
    return Told(re.sub(r"^\[rank\d\]: ", "", line), at - since, ended - since, done, left)


def why_wrong(fault: str, told: Told) -> str:
    """What is not as it must be with allranks; "" if all is."""
    wanted, within, lives = EXPECTED[fault]
    if wanted and not re.search(wanted, told.said):
        return f"said {told.said!r}"
    if told.after > within:
        return f"said so after {told.after:.1f} s, more than {within:g} s"
    if told.done != lives:
        return "did not go on" if lives else "went on"
    return f"{told.left} ranks are left" if told.left else ""


def row(fault: str, torchs: Told, ours: Told) -> tuple[str, ...]:
    """A line of the table."""
    return fault, brief(torchs), seconds(torchs), brief(ours), seconds(ours)


def brief(told: Told) -> str:
    """What was said, without what only this run has."""
    text = re.sub(r"\[/\S+/(\w+\.cc:\d+)\]", r"[\1]", told.said).replace("|", "/")
    text = re.sub(r"^allranks(\.errors)?[.:] ?", "", text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def seconds(told: Told) -> str:
    """After how long it was said."""
    return f"{told.after:.1f} s" if told.after else "-"


def _why_not(backend: str) -> str:
    """Why no ranks can run on this backend; "" if they can."""
    import torch

    shared = os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE", "0") != "0"
    needed = 1 if shared else RANKS
    visible = torch.cuda.device_count()
    if backend == "gloo" or visible >= needed:
        return ""
    return f"--backend nccl needs {needed} GPUs, and torch sees {visible}: nothing was run."


def main() -> None:
    """Run all faults, print the table, and write it to the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=FAULTS, action="append", help="just this fault")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the page with the table")
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo")
    options = parser.parse_args()
    if why := _why_not(options.backend):
        sys.exit(why)
    rows, wrong = [], []
    # On one host NCCL goes past the network.
    faults = [fault for fault in FAULTS if options.backend == "gloo" or fault != CUT]
    for fault in track(options.only or faults, "faults", transient=True):
        torchs, ours = (run(fault, of, options.backend) for of in ("torch", "allranks"))
        rows.append(row(fault, torchs, ours))
        if why := why_wrong(fault, ours):
            wrong.append(f"{fault}: {why}")
    grid = Grid("", ("fault", "plain torch says", "after", "allranks says", "after"), tuple(rows))
    Console(width=200).print(grid.rich())
    if options.markdown:
        method = (
            f"Measured on {machine()}; 4 ranks, {options.backend}; the group's timeout is "
            f"{TIMEOUT.total_seconds():g} s, `stall_after` is {STALL_AFTER.total_seconds():g} s."
        )
        put_into(options.markdown, grid, "make faults", method)
    sys.exit("\n".join(wrong) or None)


if __name__ == "__main__":
    main()
