"""``allranks doctor`` on this host: alone, under launchers, and beside ranks that fall silent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import LAUNCHERS, PATIENCE, env_environs, free_port

DOCTOR = (sys.executable, "-m", "allranks", "doctor")
AILING = str(Path(__file__).with_name("ailing.py"))

KINDS = {
    *("all_reduce", "reduce", "broadcast", "all_gather", "gather", "reduce_scatter"),
    *("all_to_all", "send_and_recv", "objects", "barrier"),
}


def started(*command: str, **more: str) -> subprocess.Popen[str]:
    """A process with no launcher's variables but these."""
    environ = {k: v for k, v in os.environ.items() if not LAUNCHERS.match(k)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env={**environ, **more}, stdout=pipe, stderr=pipe, text=True)


def report(out: str) -> dict[str, Any]:
    """The only one that was written."""
    (line,) = [line for line in out.splitlines() if line.startswith('{"of"')]
    return json.loads(line)


def bad(told: dict[str, Any]) -> list[str]:
    """What is not well; a machine may have fewer CPUs than a test has ranks."""
    few = (os.cpu_count() or 1) < 4
    rows = [row for row in told["checks"] if row["status"] != "ok"]
    return [row["seen"] for row in rows if not (few and row["what"] == "CPUs")]


def test_alone() -> None:
    process = started(*DOCTOR, "--json")
    out, err = process.communicate(timeout=PATIENCE)
    told = report(out)
    assert bad(told) == []
    assert {row["what"] for row in told["checks"]} >= KINDS
    assert (process.returncode, told["fails"], err) == (0, False, "")


def test_a_table_for_people() -> None:
    out, _ = started(*DOCTOR).communicate(timeout=PATIENCE)
    assert "launcher" in out
    assert "single, rank 0 of 1" in out
    assert out.rstrip().endswith("ok: the job can run")


@pytest.mark.parametrize(
    "before",
    [("-m", "torch.distributed.run", "--nproc-per-node=4"), ("-m", "allranks", "run", "-n4")],
    ids=["torchrun", "allranks run"],
)
def test_four_ranks_are_one_report(before) -> None:
    process = started(sys.executable, *before, "-m", "allranks", "doctor", "--json")
    out, err = process.communicate(timeout=PATIENCE)
    told = report(out.replace("0│ ", ""))
    assert bad(told) == [], err
    assert told["of"].startswith("4 ranks on 1 host")
    assert "peer memory" in {row["what"] for row in told["checks"]}
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("kind", "ailing", "expected"),
    [
        ("hangs before its facts", 1, "no word from rank 1"),
        ("hangs in the trial", 1, "no word from rank 1"),
        ("dies in the trial", 1, "no word from rank 1"),
        ("dies as rank 0", 0, ""),
    ],
)
def test_it_ends_though_a_rank_falls_silent(kind, ailing, expected) -> None:
    environs = env_environs(2, free_port(), KIND=kind, AILING=str(ailing))
    ranks = [started(sys.executable, AILING, **environ) for environ in environs]
    ended = [rank.communicate(timeout=PATIENCE) for rank in ranks]
    assert all(rank.returncode for rank in ranks)
    if expected:
        assert any(expected in seen for seen in bad(report(ended[0][0])))


def test_rank_0_is_not_there() -> None:
    """The first rank of a host says it."""
    more = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    both = [
        started(*DOCTOR, "--json", "--timeout=40", **{**more, **where, **other})
        for other in ({}, {"RANK": "3", "LOCAL_RANK": "1"})
    ]
    first, second = [rank.communicate(timeout=PATIENCE)[0] for rank in both]
    (row,) = report(first)["checks"]
    assert row["what"] == "rendezvous"
    assert re.search("rank 0 is missing|no time was left to try its address", row["seen"])
    assert row["remedy"].startswith("ss -ltnp")
    assert second == ""
    assert [rank.returncode for rank in both] == [1, 1]


def test_a_range_of_ports_that_is_none() -> None:
    process = started(*DOCTOR, "--json", ALLRANKS_PORT_RANGE="many")
    out, _ = process.communicate(timeout=PATIENCE)
    rows = {row["what"]: row for row in report(out)["checks"] if row["status"] != "ok"}
    assert set(rows) == {"ports", "rendezvous"}
    assert rows["ports"]["remedy"] == "export ALLRANKS_PORT_RANGE=20000-21000"
    assert process.returncode == 1


def test_half_an_environment() -> None:
    process = started(*DOCTOR, "--json", RANK="0")
    out, _ = process.communicate(timeout=PATIENCE)
    (row,) = report(out)["checks"]
    assert (row["what"], row["status"], row["remedy"]) == ("launcher", "failure", "unset RANK")
    assert process.returncode == 1
