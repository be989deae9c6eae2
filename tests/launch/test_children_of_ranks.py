"""What a rank has forked ends with the job, unless it has made itself a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import allranks
from allranks._launch import launch, supervisor
from allranks._launch.child_rank import ChildRank
from allranks._launch.session_reaper import SessionReaper
from allranks._system import processes
from allranks.errors import RankFailedError, StalledError
from harness import PATIENCE, alive, wait_until

ALLRANKS = [sys.executable, "-m", "allranks._cli", "run", "-n", "2"]

KINDS = ("forked", "own_group", "worker", "grandchild", "own_session")

START = """
import multiprocessing, os, signal, subprocess, sys, time
from pathlib import Path

def sleeper(before=lambda: None):
    ready, is_ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        before()
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        os.write(is_ready, b"!")
        time.sleep(600)
        os._exit(0)
    os.read(ready, 1)  # Else it may be ended before it is what it is to be.
    os.close(ready)
    os.close(is_ready)
    return pid

def grandchild():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, b"%d" % sleeper(os.setpgrp))
        os._exit(0)
    return int(os.read(reader, 20))

def start(directory):
    fork = multiprocessing.get_context("fork")
    worker = fork.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    pids = {
        "forked": sleeper(),
        "own_group": sleeper(os.setpgrp),
        "worker": worker.pid,
        "grandchild": grandchild(),
        "own_session": sleeper(os.setsid),
    }
    path = Path(directory) / os.environ["ALLRANKS_RANK"]
    path.with_suffix(".part").write_text(" ".join(f"{k}={v}" for k, v in pids.items()))
    path.with_suffix(".part").rename(path)
    while not all((Path(directory) / rank).exists() for rank in "01"):
        time.sleep(0.01)
"""


@pytest.fixture
def started(tmp_path: Path):
    """The children that ranks start, by kind; nothing is left of them after the test."""

    def look() -> dict[str, list[int]]:
        files = [tmp_path / rank for rank in "01"]
        wait_until(lambda: all(file.exists() for file in files))
        pairs = [pair.split("=") for file in files for pair in file.read_text().split()]
        return {kind: [int(pid) for name, pid in pairs if name == kind] for kind in KINDS}

    yield look
    for file in (tmp_path / rank for rank in "01"):
        for pair in file.read_text().split() if file.exists() else ():
            pid = int(pair.partition("=")[2])
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def expect_only_own_sessions(pids: dict[str, list[int]]) -> None:
    spared = pids.pop("own_session")
    wait_until(lambda: not any(alive(pid) for kind in pids.values() for pid in kind))
    assert all(map(alive, spared))


ENDS = {
    "all leave": "os._exit(0)",
    "one fails": "os._exit(3 * int(os.environ['RANK'])) if os.environ['RANK'] == '1' else stay()",
    "one is killed": "os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else stay()",
    "SIGINT": "stay()",
    "SIGTERM": "stay()",
    "SIGKILL": "stay()",
}


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize(("end", "how"), [*((end, ()) for end in ENDS), ("SIGKILL", ("--spawn",))])
def test_of_a_job_nothing_is_left_however_it_ends(tmp_path, started, end: str, how) -> None:
    script = tmp_path / "script.py"
    stay = "\ndef stay():\n    while True: time.sleep(1)\n"
    script.write_text(f"{START}{stay}start({str(tmp_path)!r})\n{ENDS[end]}\n")
    job = subprocess.Popen([*ALLRANKS, *how, str(script)], stderr=subprocess.DEVNULL)
    pids = started()
    if end.startswith("SIG"):
        job.send_signal(getattr(signal, end))
    job.wait(60)
    expect_only_own_sessions(pids)


def starting(then) -> object:
    def work(directory: str) -> None:
        scope: dict = {}
        exec(START, scope)
        scope["start"](directory)
        then()

    return work


def test_of_a_launched_function_nothing_is_left_when_it_returns(tmp_path, started) -> None:
    allranks.launch(starting(lambda: None), (str(tmp_path),), ranks=2)
    expect_only_own_sessions(started())


def test_of_a_launched_function_nothing_is_left_when_a_rank_is_killed(tmp_path, started) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RankFailedError):
        allranks.launch(starting(die), (str(tmp_path),), ranks=2)
    expect_only_own_sessions(started())


def test_of_a_launched_function_nothing_is_left_at_its_deadline(tmp_path, started) -> None:
    allranks.launch(lambda: 1, ranks=1)
    with pytest.raises(StalledError):
        allranks.launch(starting(lambda: time.sleep(600)), (str(tmp_path),), ranks=2, timeout=10)
    expect_only_own_sessions(started())


def test_of_a_launched_function_nothing_is_left_when_the_template_is_killed(
    tmp_path, started
) -> None:
    allranks.launch(lambda: 1, ranks=1)
    template = launch._template().pid

    def kill() -> None:
        os.kill(template, signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(RankFailedError):
        allranks.launch(starting(kill), (str(tmp_path),), ranks=2)
    expect_only_own_sessions(started())


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_of_a_launched_function_nothing_is_left_of_a_killed_caller(
    tmp_path, started, signum
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"{START}import allranks\ndef work():\n    start({str(tmp_path)!r})\n    time.sleep(600)\n"
        "allranks.launch(work, ranks=2)\n"
    )
    caller = subprocess.Popen([sys.executable, str(program)], stderr=subprocess.DEVNULL)
    pids = started()
    caller.send_signal(signum)
    caller.wait(60)
    expect_only_own_sessions(pids)


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize("end", ["pass", "assert False", "os.kill(os.getpid(), 9)", "SIGKILL"])
def test_of_a_test_nothing_is_left(tmp_path, started, end: str) -> None:
    then = "time.sleep(600)" if end == "SIGKILL" else end
    text = f"{START}\nimport pytest\n@pytest.mark.ranks(2, setup=False)\ndef test_it():\n"
    body = textwrap.indent(f"start({str(tmp_path)!r})\n{then}", "    ")
    (tmp_path / "test_inner.py").write_text(text + body)
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_inner.py"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    pids = started()
    if end == "SIGKILL":
        session.send_signal(signal.SIGKILL)
    session.wait(60)
    expect_only_own_sessions(pids)


def test_a_session_is_ended_and_nothing_beside_it(tmp_path, started) -> None:
    program = f"{START}\nstart({str(tmp_path)!r})\ntime.sleep(600)"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            start_new_session=True,
            env={**os.environ, "ALLRANKS_RANK": rank},
        )
        for rank in "01"
    ]
    pids = started()
    processes.end_sessions([ranks[0].pid])
    assert ranks[0].wait(30) == -signal.SIGKILL
    wait_until(lambda: not any(alive(pids[kind][0]) for kind in KINDS[:-1]))
    assert alive(pids["own_session"][0])
    assert ranks[1].poll() is None
    assert all(alive(pids[kind][1]) for kind in KINDS)
    processes.end_sessions([ranks[1].pid])
    ranks[1].wait(30)


@pytest.fixture
def session_leader():
    """A process whose id a reaper may be told."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_reaper_that_is_dismissed_ends_nothing(session_leader) -> None:
    """By then the ranks' ids may be those of others."""
    reaper = SessionReaper()
    reaper.tell(session_leader.pid)
    reaper.dismiss()
    session_leader.terminate()  # The first signal that ends a process is what it ended of.
    assert session_leader.wait(PATIENCE) == -signal.SIGTERM


def test_a_reaper_whose_parent_is_gone_ends_the_ranks(session_leader) -> None:
    reaper = SessionReaper()
    reaper.tell(session_leader.pid)
    reaper.forget()  # All that it hears of a parent's end, however that comes.
    assert session_leader.wait(PATIENCE) == -signal.SIGKILL
    processes.reap(reaper._pid)


def test_the_ranks_of_a_job_are_reaped_after_the_reaper_is_dismissed(monkeypatch) -> None:
    done = []
    monkeypatch.setattr(processes, "end_sessions", lambda _: done.append("ended"))
    monkeypatch.setattr(processes, "reap", lambda _: done.append("reaped"))
    started = supervisor.Supervisor(lambda *_: None, lambda: None)
    started._ranks = [ChildRank(0, -1, (0, 0, 0))]
    reaper: Any = SimpleNamespace(dismiss=lambda: done.append("dismissed"))
    started._end_sessions(reaper)
    assert done == ["ended", "dismissed", "reaped"]


def test_a_child_that_has_ended_stays_until_it_is_reaped() -> None:
    for ending, expected in ((lambda: os._exit(7), 7), (signal.pause, -signal.SIGKILL)):
        pid = os.fork()
        if pid == 0:
            ending()
        if expected < 0:
            assert processes.status_of_child(pid) is None
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: processes.status_of_child(pid) is not None)
        assert processes.status_of_child(pid) == expected
        assert processes.state(pid) == "Z"
        processes.reap(pid)
        assert processes.state(pid) == ""
