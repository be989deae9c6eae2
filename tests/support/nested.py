"""Runs pytest in pytest: a session of its own, whose reports can be looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from harness import PATIENCE
from torch_versions import without_chatter

REPORTER = """
import json, os

def pytest_runtest_logreport(report):
    if hasattr(report, "node") or "PYTEST_XDIST_WORKER" not in os.environ:
        with open("reports.jsonl", "a") as file:
            told = dict(name=report.nodeid.partition("::")[2], when=report.when,
                        kind=type(report).__name__,
                        outcome=report.outcome, text=report.longreprtext,
                        skip=report.longrepr[2] if isinstance(report.longrepr, tuple) else None,
                        xfail=getattr(report, "wasxfail", None), sections=report.sections,
                        seconds=report.duration, properties=report.user_properties)
            print(json.dumps(told), file=file)
"""


IN_ORDER = ("-p", "no:randomly")
"""Inner tests rely on their order; what is said of pytest-randomly asks for it."""


@dataclass
class Run:
    """An inner session that has ended."""

    directory: Path
    code: int
    output: str
    seconds: float

    def report(self, name: str, when: str = "call") -> dict:
        found = [one for one in self.all_reports(name) if one["when"] == when]
        assert len(found) == 1, (name, when, self.output)
        return found[0]

    def all_reports(self, name: str) -> list[dict]:
        return [one for one in self.reports if one["name"] == name]

    @property
    def reports(self) -> list[dict]:
        path = self.directory / "reports.jsonl"
        reports = [json.loads(line) for line in path.read_text().splitlines()]
        for one in reports:
            sections = [(name, without_chatter(text)) for name, text in one["sections"]]
            one["sections"] = [(name, text) for name, text in sections if text]
        return reports

    def outcomes(self, when: str = "call") -> dict[str, str]:
        return {one["name"]: one["outcome"] for one in self.reports if one["when"] == when}

    def section(self, name: str, title: str) -> str:
        return dict(self.report(name)["sections"])[title]


def run(directory: Path, tests: str, *arguments: str) -> Run:
    """Run the tests of this text in a session of their own."""
    head = "import os, signal, sys, time\nimport pytest\nimport allranks\n"
    (directory / "test_inner.py").write_text(head + textwrap.dedent(tests))
    (directory / "conftest.py").write_text(REPORTER)
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "reports.jsonl").unlink(missing_ok=True)
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *IN_ORDER, *arguments],
        cwd=directory,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return Run(directory, ended.returncode, ended.stdout, time.monotonic() - began)
