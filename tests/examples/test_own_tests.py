"""The suite of a project of its own: it passes, and fails by rank where the project is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from example_runs import EXAMPLES
from harness import PATIENCE

COUNTED = 'total = allranks.all_reduce({"right": self.right, "seen": self.seen})'
OWN_SHARE = 'total = {"right": self.right, "seen": self.seen}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "own_tests", tmp_path / "project"))


def run_suite(project: Path) -> str:
    """What pytest says, without this repository's settings."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "allranks.pytest_plugin", "-p", "no:cacheprovider"],
        cwd=project,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.stdout + done.stderr


def failed(report: str) -> set[str]:
    return set(re.findall(r"^FAILED .*::(\S+)", report, re.MULTILINE))


def test_the_suite_passes(project: Path) -> None:
    assert re.search(r"=+ 10 passed in ", run_suite(project))


def test_a_reduction_that_is_forgotten_is_found_with_the_ranks(project: Path) -> None:
    module = project / "top_k.py"
    text = module.read_text()
    assert COUNTED in text
    module.write_text(text.replace(COUNTED, OWN_SHARE))
    report = run_suite(project)
    of_the_share = [name for name in failed(report) if "that_of_all_samples" in name]
    assert {name.partition("[")[2] for name in of_the_share} == {
        "2",
        "4",  # One rank alone cannot show it.
    }
    assert re.search(r"^rank 1:\n", report, re.MULTILINE), report
    assert re.search(r"^rank 0:\n", report, re.MULTILINE), report
