"""``allranks status`` beside real jobs: each rank is shown as it stands, from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._status import jobs as jobs_
from allranks._status import local_ranks
from allranks._status.table import shown
from allranks._system import host_sockets
from allranks._watch import flight_recorder
from allranks._watch.progress import CollectiveProgress
from allranks._watch.status_report import JobReport, Question, RankRow, row_without
from harness import PATIENCE, Ranks, env_environs, free_port, run_ranks, wait_until

pytestmark = pytest.mark.skipif(not host_sockets.allowed(), reason="needs abstract unix sockets")

STRANGE = (b"", b"\n", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 100_000, b"[1]\n", b"{" * 4000)

LONG = timedelta(seconds=4 * PATIENCE)


def sleeping() -> None:
    time.sleep(2 * PATIENCE)


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deep_in_c() -> None:
    """In code that holds the interpreter's lock for longer than anybody waits."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def waiting_for_one(place: str, culprit: int, fault) -> None:
    with allranks.session(cpu=True, timeout=LONG, stall_after=2 * PATIENCE) as world:
        allranks.all_reduce(1)
        Path(place, f"up{world.rank}").touch()
        if world.rank == culprit:
            fault()
        allranks.all_reduce({"loss": 1.0})


def all_asleep_but_one(place: str, culprit: int, fault) -> None:
    with allranks.session(cpu=True, timeout=LONG, stall_after=2 * PATIENCE) as world:
        allranks.all_reduce(1)
        Path(place, f"up{world.rank}").touch()
        (fault if world.rank == culprit else sleeping)()


@contextlib.contextmanager
def a_job(place: Path, function, *arguments, ranks: int = 4, **more: str):
    """Its name, while it runs."""
    name = uuid.uuid4().hex
    more = {"ALLRANKS_STATUS": "1", **more}
    environs = env_environs(ranks, free_port(), ALLRANKS_JOB=name, **more)
    started = Ranks(function, environs, str(place), *arguments)
    try:
        wait_until(lambda: all((place / f"up{rank}").exists() for rank in range(ranks)))
        yield name, started
    finally:
        for process in started.processes:
            process.kill()
            process.join()


def report(name: str, *, verdict: bool = False) -> JobReport | None:
    return next((one for one in jobs_.jobs(verdict=verdict) if name in one.job), None)


def seen(name: str, looks_right, *, verdict: bool = False) -> JobReport:
    """The report, once it looks right: a rank takes a moment to come where it will stay."""
    found: list[JobReport] = []

    def is_right() -> bool:
        found[:] = [one for one in [report(name, verdict=verdict)] if one]
        return bool(found) and looks_right(found[0])

    wait_until(is_right)
    return found[0]


def states(job: JobReport) -> list[str]:
    return [row.state for row in job.rows]


@pytest.mark.parametrize(
    ("fault", "state", "told"),
    [
        (sleeping, "running", r"test_status\.py:\d+"),
        (stopped, "stopped", "its process is stopped"),
        (deep_in_c, "silent", "deep in code that holds the interpreter's lock"),
    ],
)
def test_who_holds_the_others_up_is_shown(tmp_path: Path, fault, state: str, told: str) -> None:
    with a_job(tmp_path, waiting_for_one, 3, fault) as (name, _):
        job = seen(name, lambda job: states(job) == ["waiting"] * 3 + [state], verdict=True)
    assert job.world_size == 4
    assert re.search(told, job.rows[3].doing), job.rows[3]
    for row in job.rows:
        assert row.host == socket.gethostname()
        assert row.pid
    for row in job.rows[:3]:
        assert row.doing.startswith("all_reduce"), row
        assert row.memory > 10
        assert any("test_status.py" in line for line in row.stack)
    assert re.search(r"Ranks 0-2: in all_reduce.*Rank 3: ", job.verdict)
    assert not job.trouble


def test_a_rank_that_was_killed_is_gone(tmp_path: Path) -> None:
    with a_job(tmp_path, all_asleep_but_one, 2, killed) as (name, _):
        job = seen(name, lambda job: states(job) == ["running", "running", "gone", "running"])
    assert "its process is gone" in job.rows[2].doing


def test_without_rank_0_each_rank_of_this_host_tells_of_itself(tmp_path: Path) -> None:
    with a_job(tmp_path, all_asleep_but_one, 0, killed) as (name, _):
        job = seen(name, lambda job: [row.rank for row in job.rows] == [1, 2, 3])
    assert re.fullmatch(
        r"rank 0: (its store is gone|has left, and its store with it), and so the others cannot be "
        r"asked(; its process is gone)?",
        job.trouble,
    )


def often_waited_for(place: str, culprit: int) -> None:
    with allranks.session(cpu=True, timeout=LONG) as world:
        Path(place, f"up{world.rank}").touch()
        while True:
            if world.rank == culprit:
                time.sleep(0.03)
            allranks.all_reduce(1)


def test_a_rank_that_is_late_again_and_again_is_seen(tmp_path: Path) -> None:
    with a_job(tmp_path, often_waited_for, 1, ranks=3) as (name, _):
        job = seen(name, lambda job: [row.rank for row in job.rows if row.late > 0.015] == [1])
    assert job.rows[1].late < PATIENCE


def asked_while_groups_are_made() -> int:
    """How often torch's recorder is read, which may crash while a group makes its first call."""
    reads, recorders = [], flight_recorder._recorders
    progress, asked = CollectiveProgress(blind=False), []
    with allranks.session(cpu=True) as world:
        flight_recorder._recorders = lambda: reads.append(0) or recorders()
        ask = threading.Thread(
            target=lambda: asked.extend(
                progress.status(world.rank, "", disturb=False) for _ in range(200)
            )
        )
        ask.start()
        while not allranks.agree(len(asked) == 200, "all"):
            group = dist.new_group([0, 1])
            dist.all_reduce(torch.ones(1), group=group)
            dist.destroy_process_group(group)
        ask.join()
    return len(reads)


def test_a_program_that_goes_on_is_not_disturbed() -> None:
    """Nobody else asks these ranks: the harness turns that off."""
    ended = run_ranks(asked_while_groups_are_made, 2)
    assert [one.error for one in ended] == [None] * 2
    assert [one.value for one in ended] == [0, 0]


def test_a_job_may_be_kept_from_answering(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2, ALLRANKS_STATUS="0") as (name, _):
        assert report(name) is None


def test_a_strangers_bytes_do_no_harm(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2) as (name, started):
        seen(name, lambda job: states(job) == ["waiting", "running"])
        pids = {process.pid for process in started.processes}
        asked = {door: local_ranks.ask(door, Question(), 9.0) for door in local_ranks.doors()}
        doors = [door for door, answer in asked.items() if answer.pid in pids]
        assert len(doors) == 2
        for said in STRANGE:
            for door in doors:
                with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
                    connection.connect(f"\0{door.name}")
                    connection.sendall(said)
        silent = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for one in silent:
            one.connect(f"\0{doors[0].name}")
        assert states(seen(name, lambda job: len(job.rows) == 2)) == ["waiting", "running"]
        for one in silent:
            one.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_user_is_told_nothing(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2) as (name, _):
        seen(name, lambda job: states(job) == ["waiting", "running"])
        doors = local_ranks.doors()
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            told = [local_ranks.ask(door, Question(everybody=True), 9).report for door in doors]
            os._exit(bool(local_ranks.doors()) + 2 * any(told))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "allranks", "status", *arguments],
        env={**os.environ, "COLUMNS": "150"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 3, sleeping) as (name, _):
        seen(name, lambda job: states(job) == ["waiting"] * 3 + ["running"])
        table, as_json = command("--stacks", "--verdict"), command("--json")
    assert table.returncode == as_json.returncode == 0, table.stderr + as_json.stderr
    assert re.search(rf"job .*{name}.*: 4 ranks, up for ", table.stdout)
    assert re.search(r"^ 0-2 +waiting +all_reduce", table.stdout, re.MULTILINE)
    assert re.search(r"^ 3 +running +test_status\.py:\d+", table.stdout, re.MULTILINE)
    assert "verdict: all_reduce" in table.stdout
    (job,) = [one for one in json.loads(as_json.stdout) if name in one["job"]]
    assert [row["state"] for row in job["rows"]] == ["waiting"] * 3 + ["running"]


def test_a_followed_job_is_drawn_again_until_ctrl_c(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2) as (name, _):
        ours, theirs = os.openpty()
        line = [sys.executable, "-m", "allranks", "status", "--follow"]
        following = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        drawn = b""
        try:
            while drawn.count(name.encode()) < 3:  # Whoever asks three times has drawn it twice.
                drawn += os.read(ours, 65536)
            following.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # The end of a terminal.
                while piece := os.read(ours, 65536):
                    drawn += piece
            assert following.wait(PATIENCE) == 0
        finally:
            following.kill()
            following.wait()
            os.close(ours)
    assert b"Traceback" not in drawn
    assert re.search(rb"\x1b\[\d*A", drawn), "it is drawn in place of the last one"


def test_the_command_says_what_to_do_where_there_is_no_job(monkeypatch, capsys) -> None:
    from allranks._status import command as command_

    monkeypatch.setattr(command_, "jobs", lambda _, **__: [])
    for of, told in [("", "No job of yours answers"), ("7", "No job of yours with '7' answers")]:
        with pytest.raises(SystemExit, match="1"):
            command_.print_jobs(of, stacks=False, verdict=False)
        assert told in capsys.readouterr().err


def test_a_job_is_asked_for_by_its_name_or_its_program_or_a_process(tmp_path: Path) -> None:
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2) as (name, _):
        (job,) = jobs_.jobs(name)
        assert (job.directory, bool(job.program)) == (str(Path.cwd()), True)
        asked = [name[:20], str(job.rows[1].pid), job.program]
        assert all(job.job in [one.job for one in jobs_.jobs(of)] for of in asked)
        told = command("--job", name).stdout
    assert jobs_.jobs(f"{name}-another") == []
    assert told.count(": 2 ranks, up for ") == 1
    assert f", in {Path.cwd()}" in " ".join(told.split())


def test_a_job_that_is_not_asked_for_is_not_disturbed(tmp_path: Path, monkeypatch) -> None:
    asked, ask = [], jobs_.ask
    monkeypatch.setattr(jobs_, "ask", lambda *given: asked.append(given[1]) or ask(*given))
    with a_job(tmp_path, waiting_for_one, 1, sleeping, ranks=2) as (name, _):
        assert jobs_.jobs(f"{name}-another", verdict=True, details=True) == []
    assert set(asked) == {Question()}


def test_thousands_of_ranks_are_few_rows() -> None:
    rows = [
        RankRow(rank, f"node{rank // 8}", 100 + rank, "cuda:0", "waiting", "all_reduce #7", 60.0)
        for rank in range(16383)
    ]
    last = row_without(16383, "no answer from node2047; its process is stopped", None)
    job = JobReport("slurm/7", "slurm", 16384, time.time() - 7260, 0, (*rows, last))
    text = _printed(partial(shown, job, 150, stacks=False))
    assert re.search(r"^ 0-16382 +waiting +all_reduce #7 +60 s ", text, re.MULTILINE)
    assert re.search(r" 2048 hosts +16383 processes +cuda:0 *$", text, re.MULTILINE)
    assert re.search(r"^ 16383 +stopped", text, re.MULTILINE)
    assert "up for 2 h 1 min" in text
    assert len(text.splitlines()) < 10


def _printed(make) -> str:
    import io

    from rich.console import Console

    into = io.StringIO()
    Console(file=into, width=150).print(make())
    return into.getvalue()
