"""``allranks dump``: files of a job that hangs, and a page that shows it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import allranks
from allranks._status.jobs import jobs
from allranks._status.lanes import ABSENT, CAME, UNKNOWN, lanes
from allranks._status.page import page
from allranks._status.waiting_for import stands
from allranks._system import host_sockets
from allranks._watch.diagnosis import ReportedCollective
from allranks._watch.rank_detail import PastCall, RankDetail
from allranks._watch.status_report import JobReport, RankRow
from harness import PATIENCE
from test_status import LONG, a_job, killed, sleeping

needs_sockets = pytest.mark.skipif(not host_sockets.allowed(), reason="needs abstract unix sockets")


def command(*arguments: str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "allranks", "dump", *arguments]
    return subprocess.run(line, cwd=where, capture_output=True, text=True, timeout=PATIENCE)


def page_of(place: Path, name: str) -> Path:
    """The directory of one job; others may run on this host."""
    pages = [path.parent for path in place.rglob("index.html")]
    return next(one for one in pages if name in (one / "job.json").read_text())


def dumped(place: Path, name: str, right) -> Path:
    """A dump of the job, once it stands where it will stay."""
    end = time.monotonic() + PATIENCE
    for turn in range(10_000):
        ended = command(str(place / f"dump{turn}"))
        assert ended.returncode == 0, ended.stderr
        found = page_of(place / f"dump{turn}", name)
        if right(json.loads((found / "job.json").read_text())["ranks"]):
            return found
        assert time.monotonic() < end
    raise AssertionError


@needs_sockets
def test_files_of_each_rank_and_a_page(tmp_path: Path) -> None:
    def right(rows) -> bool:
        return [row["state"] for row in rows] == ["waiting"] * 2 + ["running", "stopped"]

    with a_job(tmp_path, two_late) as (name, _):
        found = dumped(tmp_path, name, right)
    told = [json.loads((found / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert [one["rank"] for one in told] == [0, 1, 2, 3]
    for one in told[:3]:
        assert one["record"]["pid"] == one["pid"]
        assert any("test_dump.py" in line for line in one["detail"]["threads"]["MainThread"])
        assert "watch" in " ".join(one["detail"]["threads"])
    last = told[0]["detail"]["calls"][-1]
    assert last["call"]["op"].startswith("all_reduce")
    assert not last["over"]
    assert told[3]["detail"] is None
    assert re.search(r"Ranks 0-1: in all_reduce.*Rank 2: .*Rank 3: ", verdict_of(found))
    text = (found / "index.html").read_text()
    for wanted in ("ranks 0-1: waiting", "rank 2: running", "rank 3: stopped", "has not come"):
        assert wanted in text


def verdict_of(directory: Path) -> str:
    return (directory / "verdict.txt").read_text()


def two_late(place: str) -> None:
    with allranks.session(cpu=True, timeout=LONG, stall_after=2 * PATIENCE) as world:
        for _ in range(5):
            allranks.all_reduce(1)
        Path(place, f"up{world.rank}").touch()
        if world.rank == 2:
            sleeping()
        if world.rank == 3:
            os.kill(os.getpid(), signal.SIGSTOP)
        allranks.all_reduce({"loss": 1.0})


@needs_sockets
def test_without_rank_0_the_ranks_of_this_host_are_dumped(tmp_path: Path) -> None:
    def right(rows) -> bool:
        return [row["rank"] for row in rows] == [1, 2]

    with a_job(tmp_path, all_asleep_with_0_killed, ranks=3) as (name, _):
        found = dumped(tmp_path, name, right)
    assert json.loads((found / "rank-2.json").read_text())["detail"]["threads"]
    assert "cannot be asked" in (found / "index.html").read_text()
    assert "cannot be asked" in verdict_of(found)


def all_asleep_with_0_killed(place: str) -> None:
    with allranks.session(cpu=True, timeout=LONG, stall_after=2 * PATIENCE) as world:
        allranks.all_reduce(1)
        Path(place, f"up{world.rank}").touch()
        (sleeping if world.rank else killed)()


def test_a_directory_with_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    ended = command(str(tmp_path))
    assert ended.returncode == 1
    assert "is not empty (notes.txt is there): name another one" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    ended = command(str(kept))
    assert ended.returncode == 1
    assert "cannot be used: File exists" in ended.stderr
    assert kept.read_text() == "mine"


def test_where_there_is_no_job_nothing_is_left(tmp_path: Path) -> None:
    if jobs():
        pytest.skip("other jobs of this user run on this host")
    ended = command(where=tmp_path)
    assert ended.returncode == 1
    assert "No job of yours answers on this host" in ended.stderr
    assert not list(tmp_path.iterdir())


def call(number: int, at: float, ended: float = 0.0, *, over: bool = True, **more) -> PastCall:
    what = ReportedCollective(more.get("group", "WORLD"), number, "all_reduce", "", "t.py:1")
    return PastCall(what, at, ended, over)


def row(
    rank: int, *calls: PastCall, state: str = "waiting", host: str = "a", members=()
) -> RankRow:
    detail = RankDetail(rank, calls, members, {})
    doing = f"#{calls[-1].call.number} on {calls[-1].call.group}" if calls else "t.py:9"
    return RankRow(rank, host, 1, "cpu", state, doing, detail=detail)


def test_clocks_that_differ_are_set_by_calls_that_end_for_all() -> None:
    """Rank 1's clock is 90 s ahead; it came 0.5 s late to the second call."""
    here = row(0, call(1, 10.0, 10.5), call(2, 11.0, 12.0), call(3, 13.0))
    there = row(1, call(1, 100.25, 100.5), call(2, 101.5, 102.0), call(3, 103.0), host="b")
    found = lanes([here, there])
    assert found is not None
    assert [cell.late for cell in found.cells[0]] == [0.0, 0.0, 0.0]
    assert [cell.late for cell in found.cells[1]] == pytest.approx([0.25, 0.5, 0.0])


def test_clocks_of_which_nothing_tells_are_not_compared() -> None:
    found = lanes([row(0, call(1, 10.0)), row(1, call(1, 100.0), host="b"), row(2, call(1, 10.25))])
    assert found is not None
    assert [found.cells[rank][0].state for rank in (0, 1, 2)] == [CAME, UNKNOWN, CAME]
    assert found.cells[2][0].late == 0.25


def test_who_has_not_come_and_who_does_not_remember() -> None:
    rows = [
        row(0, call(1, 1.0), call(2, 2.0, over=False)),
        row(1, call(1, 1.0), state="running"),
        row(2, call(2, 2.0, over=False)),
        RankRow(3, state="stopped"),
    ]
    found = lanes(rows)
    assert found is not None
    assert [[cell.state for cell in found.cells[rank]] for rank in range(4)] == [
        [CAME, CAME],
        [CAME, ABSENT],
        [UNKNOWN, CAME],
        [UNKNOWN, UNKNOWN],
    ]


def test_ranks_wait_for_those_that_are_not_in_their_call() -> None:
    in_it = [row(rank, call(5, 1.0, over=False)) for rank in (0, 1)]
    ahead = row(2, call(6, 1.0, over=False))
    gone = RankRow(3, state="gone", doing="no answer")
    found = stands([*in_it, ahead, gone])
    assert [(one.ranks, one.waits_for) for one in found] == [
        ([0, 1], (2,)),
        ([2], (0, 2)),
        ([3], ()),
    ]


def test_ranks_that_wait_in_groups_for_each_other() -> None:
    left = row(0, call(1, 1.0, over=False, group="g"), members=(0, 1))
    right = row(1, call(1, 1.0, over=False, group="h"), members=(1, 0))
    apart = row(2, call(9, 1.0, over=False, group="i"), members=(2, 3))
    found = stands([left, right, apart])
    assert [one.waits_for for one in found] == [(1,), (0,), ()]


def test_the_page_is_whole_and_takes_nothing_from_elsewhere() -> None:
    rows = [row(rank, call(1, 1.0), call(2, 2.0 + rank)) for rank in range(70)]
    rows.append(RankRow(70, "<b>host</b>", state="gone", doing="<script>alert(1)</script> & more"))
    text = page(JobReport("<i>job</i>", "torchrun", 71, 0.0, 0, tuple(rows), "a < b", "& so"))
    assert not re.search(r"https?:|src=|href=|@import|<script", text)
    assert "<i>" not in text
    assert "<b>" not in text
    body = text.partition("\n")[2].replace('<meta charset="utf-8">', "")
    drawn = [one.tag for one in ET.fromstring(body).iter() if one.tag == "svg"]
    assert len(drawn) == 2
    assert "7 more ranks" in text
