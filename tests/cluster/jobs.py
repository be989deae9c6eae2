"""The programs that the ranks of the cluster tests run, and what their reports must say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
MARK = "REPORT "


PROBE = (str(HERE / "probe.py"),)
COLLECTIVES = (str(HERE / "collectives.py"),)
RESTARTED = (str(HERE / "restarted.py"),)
COMPANY = (str(HERE / "company.py"),)
ADOPTED = (str(HERE / "adopted.py"),)
ENDLESS = (str(HERE / "endless.py"),)
WAITING = (str(HERE / "waiting.py"),)
DYING = (str(HERE / "dying.py"),)
DIGITS = (str(EXAMPLES / "digits.py"),)


def reports(out: str) -> list[dict[str, Any]]:
    """What the ranks reported, by rank."""
    found = [json.loads(line.partition(MARK)[2]) for line in out.splitlines() if MARK in line]
    return sorted(found, key=lambda report: report["rank"])


def wrong(out: str, launcher: str, hosts: Sequence[str]) -> str:
    """What is wrong with a job's reports; "" if nothing is.

    Args:
        out: what the job wrote.
        launcher: what must have been detected.
        hosts: the host on which each rank must run.
    """
    told = reports(out)
    if [report["rank"] for report in told] != list(range(len(hosts))):
        return f"ranks {[report['rank'] for report in told]} of {len(hosts)} reported"
    for report in told:
        for name, value in expected(report["rank"], launcher, hosts).items():
            if report[name] != value:
                return f"rank {report['rank']} says {name}={report[name]!r}, and it is {value!r}"
    by_host = {(report["host"], report["node_rank"]) for report in told}
    if sorted(number for _, number in by_host) != list(range(len(set(hosts)))):
        return f"hosts and node ranks do not pair: {sorted(by_host)}"
    return ""


def expected(rank: int, launcher: str, hosts: Sequence[str]) -> dict[str, object]:
    """What a rank must report."""
    here = [other for other, host in enumerate(hosts) if host == hosts[rank]]
    return {
        "launcher": launcher,
        "world_size": len(hosts),
        "host": hosts[rank],
        "local_rank": here.index(rank),
        "local_world_size": len(here),
        "num_nodes": len(set(hosts)),
        "total": len(hosts) * (len(hosts) + 1) // 2,
    }


def told_by(out: str) -> dict[int, str]:
    """What ended each rank of an endless job, by its own word."""
    return {
        int(rank): error
        for rank, error in re.findall(r"^TOLD rank (\d+): (.*)$", out, re.MULTILINE)
    }


def pids(out: str) -> dict[int, int]:
    """The process id of each rank of an endless job, on its host."""
    return {
        int(r): int(pid)
        for r, pid in re.findall(r"^RUNNING rank (\d+) pid (\d+)", out, re.MULTILINE)
    }
