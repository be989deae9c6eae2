"""Every code block of the README and the docs runs, and prints what is shown."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import pytest
from blocks import PAGES, ROOT, RUN, Block, blocks_of, steps
from outputs import matches

import allranks
from harness import PATIENCE, run_ranks

PAGES_OF = {str(page.relative_to(ROOT)): blocks_of(page) for page in PAGES if page.exists()}
BLOCKS = [one for blocks in PAGES_OF.values() for one in blocks if one.language in RUN]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
HERE = [one for one in BLOCKS if "elsewhere" not in one.told]


def those(language: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [b for b in HERE if b.language == language], ids=str)


def files_before(block: Block, place: Path) -> None:
    """Write the files that the page has shown by then."""
    for one in PAGES_OF[block.page]:
        files = {w[6:]: text for w, text in one.told.items() if w.startswith("given ")}
        if "file" in one.told:
            files[one.told["file"]] = one.text
        for name, text in files.items() if one.line <= block.line else ():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(f"{text}\n")


def environ() -> dict[str, str]:
    """A user's shell in which allranks is installed, 90 columns wide."""
    return {
        **{name: text for name, text in os.environ.items() if name != "ALLRANKS_STATUS"},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "90",
        "PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider",  # As where they are not installed.
        "PYTHONUNBUFFERED": "1",
    }


def told_by(command: str, place: Path) -> tuple[int, str]:
    """Its exit code, and what it printed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=place,
        env=environ(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        text=True,
    )
    return done.returncode, done.stdout


def is_right(block: Block, shown: str, code: int, told: str) -> bool:
    """Whether a command printed what is shown; where nothing is, whether it went well."""
    return matches(shown, told, "varies" in block.told) if shown.strip() else code == 0


@contextmanager
def beside(command: str, place: Path):
    """A command in the background, ended with all that it has started."""
    with (place / ".beside").open("wb") as output:
        running = subprocess.Popen(
            ["bash", "-c", command],
            cwd=place,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(PATIENCE)


def runs(code: str, page: str) -> None:
    """Run lines of a page, as a program of this rank."""
    clean = {"__name__": "__main__"}
    try:
        exec(compile(code, page, "exec"), clean)
    finally:
        allranks.cleanup()


@those("python")
def test_the_lines_run(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "file" in block.told:
        commands = [b.text for b in PAGES_OF[block.page] if b.language != "python"]
        assert any(block.told["file"] in text for text in commands), "no block runs this file"
    elif "def test_" in block.text:
        (tmp_path / "test_page.py").write_text(block.text)
        code, told = told_by("python -m pytest -q test_page.py", tmp_path)
        assert code == 0, told
    else:
        code = f"{block.told.get('before', '')}\n{block.text}"
        ended = run_ranks(runs, int(block.told.get("ranks", 2)), code, str(block))
        assert [one.error for one in ended] == [None] * len(ended)


def test_a_console_begins_with_a_command() -> None:
    for block in BLOCKS:
        if block.language == "console":
            assert block.text.startswith("$ "), block


def try_until_right(block: Block, command: str, shown: str, place: Path) -> None:
    """Run a command; beside another one, again and again, until it prints what is shown."""
    end = time.monotonic() + (PATIENCE if "while" in block.told else 0)
    for attempt in itertools.count():
        here = place / f"attempt{attempt}" if "while" in block.told else place
        here.mkdir(exist_ok=True)
        code, told = told_by(command, here)
        if is_right(block, shown, code, told):
            return
        assert time.monotonic() < end, f"$ {command}\n{told}"


@pytest.mark.skipif(
    f"torch=={version('torch').partition('+')[0]}" not in CONSTRAINTS.split(),
    reason="shown is what the pinned torch says",
)
@pytest.mark.parametrize("block", [b for b in HERE if b.language in ("console", "bash")], ids=str)
def test_the_commands_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    files_before(block, tmp_path)
    commands = steps(block) if block.language == "console" else [(f"set -e\n{block.text}", "")]
    background = block.told.get("while", "")
    with beside(background, tmp_path) if background else nullcontext():
        for command, shown in commands:
            try_until_right(block, command, shown, tmp_path)


def test_what_runs_elsewhere_names_a_test_or_a_reason() -> None:
    for block in BLOCKS:
        told = block.told.get("elsewhere", "tests: this one")
        for path in re.findall(r"tests/[\w/]+\.py", told):
            assert (ROOT / path).is_file(), f"{block}: {path}"
        assert len(told) > 5, block


@pytest.mark.parametrize(
    ("shown", "real", "right"),
    [
        ("sum: 3", "sum: 3", True),
        ("sum: 3", "sum: 4", False),
        ("rank 1 (pid 7) failed", "rank 1 (pid 812) failed", True),
        ("rank 1 (pid 7) failed", "rank 2 (pid 812) failed", False),
        ("first\n...\nlast", "first\nsecond\nthird\nlast\n", True),
        ("first\n...\nlast", "first\nsecond", False),
        ("a  b", "a\nb", True),
        ("ab", "abc", False),
    ],
)
def test_outputs_are_compared(shown: str, real: str, right: bool) -> None:
    assert matches(shown, real) == right


def test_numbers_differ_where_a_page_says_so() -> None:
    assert matches("3 passed in 4.21s", "3 passed in 12.5s", numbers=True)
    assert not matches("3 passed in 4.21s", "3 failed in 12.5s", numbers=True)
