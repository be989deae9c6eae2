"""The program's stack in a verdict ends where the program ends, whatever started it."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import allranks
from allranks._system import stacks
from harness import PATIENCE

PYTHON = [sys.executable]
PYTEST = ["-q", "-p", "no:cacheprovider", "test_it.py"]
COMMANDS = Path(sys.executable).parent

WORK = """
import json, os, sys
from pathlib import Path
from allranks._system import stacks

def load():
    told = [str(line) for line in stacks.program()]
    Path(f"told{os.environ.get('ALLRANKS_RANK', '')}").write_text(json.dumps(told))
"""

TRAIN = """
from work import load

def main():
    load()

if __name__ == "__main__":
    main()
"""

TEST = """
import pytest
from work import load

@pytest.mark.ranks(2)
def test_ranks():
    load()

def test_alone():
    load()
"""

WORK_LINE = "work.py:7 in load"
TRAIN_STACK = [WORK_LINE, "train.py:5 in main", "train.py:8"]


def stack(tmp_path: Path, *command: str) -> list[str]:
    """What a command's program, or its rank 0, tells of its main thread."""
    for name, text in {"work.py": WORK, "train.py": TRAIN, "test_it.py": TEST}.items():
        (tmp_path / name).write_text(text)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environ = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told, *_ = sorted(tmp_path.glob("told*"))
    return json.loads(told.read_text())


@pytest.mark.parametrize(
    "command",
    [
        [*PYTHON, "train.py"],
        [*PYTHON, "-m", "train"],
        [*PYTHON, str(COMMANDS / "allranks"), "run", "-n", "2", "train.py"],
        [*PYTHON, "-m", "allranks._cli", "run", "-n", "2", "-m", "train"],
        [*PYTHON, "-m", "allranks._cli", "run", "--spawn", "-n", "2", "train.py"],
        [*PYTHON, str(COMMANDS / "torchrun"), "--nproc-per-node=1", "train.py"],
    ],
    ids=["python", "python -m", "run", "run -m", "run --spawn", "torchrun"],
)
def test_a_script_ends_with_its_module(tmp_path: Path, command: list[str]) -> None:
    assert stack(tmp_path, *command) == TRAIN_STACK


RENAMED = """
__name__ = "renamed"
import work
work.load()
"""

WRAPPER = """
from allranks._cli import main

def start():
    main(["run", "-n", "2", "renamed.py"])

start()
"""


def test_a_script_ends_with_its_module_by_whatever_name_and_started_by_whom(tmp_path: Path) -> None:
    """The command's own frames, click's and those of who called it are no part of the program."""
    (tmp_path / "renamed.py").write_text(RENAMED)
    (tmp_path / "wrapper.py").write_text(WRAPPER)
    assert stack(tmp_path, *PYTHON, "wrapper.py") == [WORK_LINE, "renamed.py:4"]


STALLED = """
import time, allranks
allranks.setup(cpu=True, stall_after=2)
def load():
    time.sleep(600)
if allranks.get_rank() == 1:
    load()
allranks.all_reduce(1)
"""


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_a_verdict_ends_with_the_program(tmp_path: Path, how: tuple[str, ...]) -> None:
    (tmp_path / "stalled.py").write_text(STALLED)
    command = [*PYTHON, "-m", "allranks", "run", "-n", "2", *how, str(tmp_path / "stalled.py")]
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        told = next(line for line in job.stderr if "Rank 1 stands at" in line)
    finally:
        job.terminate()
        job.communicate(timeout=PATIENCE)
    stands = told.partition("Rank 1 stands at ")[2].strip()
    assert stands == "stalled.py:5 in load < stalled.py:7."


def test_a_command_line_is_a_program(tmp_path: Path) -> None:
    assert stack(tmp_path, *PYTHON, "-c", "import work; work.load()") == [WORK_LINE, "<string>:1"]


@pytest.mark.parametrize("runner", [["-m", "pytest"], [str(COMMANDS / "pytest")]], ids=["-m", ""])
@pytest.mark.parametrize(
    ("name", "line"), [("test_ranks", "test_it.py:7"), ("test_alone", "test_it.py:10")]
)
def test_a_test_ends_with_its_function(tmp_path: Path, runner, name: str, line: str) -> None:
    command = [*PYTHON, *runner, *PYTEST, "-k", name]
    assert stack(tmp_path, *command) == [WORK_LINE, f"{line} in {name}"]


def shown() -> list[str]:
    return [line.function for line in stacks.program()]


def called_by_a_library() -> list[str]:
    """A library within the program is part of where it stands."""
    told: list[list[str]] = []
    json.loads("{}", object_hook=lambda _: told.append(shown()))
    return told[0]


def test_a_launched_function_is_the_last() -> None:
    assert allranks.launch(shown, ranks=1) == [["shown"]]
    inner = allranks.launch(called_by_a_library, ranks=1)[0]
    assert inner[:2] == ["shown", "<lambda>"]
    assert inner[-2:] == ["loads", "called_by_a_library"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Of a fork beside threads.
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_of_multiprocessing_ends_with_its_target(method: str) -> None:
    processes = multiprocessing.get_context(method)
    reader, writer = processes.Pipe(duplex=False)
    process = processes.Process(target=send_shown, args=(writer,))
    process.start()
    writer.close()
    assert reader.recv() == ["shown", "send_shown"]
    process.join()


def send_shown(pipe) -> None:
    pipe.send(shown())
