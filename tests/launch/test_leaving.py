"""A forked rank ends as the same script does under plain python, but for the interpreter's end."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness import PATIENCE
from torch_versions import without_chatter

RUN = [sys.executable, "-m", "allranks._cli", "run", "-n", "1"]

ORDER = """
import atexit, threading, time, weakref
class Thing: pass
thing = Thing()
weakref.finalize(thing, print, "finalized")
atexit.register(print, "atexit")
def work():
    time.sleep(0.3)
    print("thread")
threading.Thread(target=work).start()
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("main")
"""
FUTURES = """
import concurrent.futures, time
pool = concurrent.futures.ThreadPoolExecutor(1)
for number in range(3):
    pool.submit(lambda number=number: (time.sleep(0.1), print("task", number)))
idle = concurrent.futures.ThreadPoolExecutor(1)
idle.submit(print, "idle").result()
"""
CHILDREN = """
import multiprocessing, pathlib, time
def write():
    time.sleep(0.5)
    pathlib.Path("child").write_text("done")
def linger():
    time.sleep(600)
forking = multiprocessing.get_context("fork")
forking.Process(target=write).start()
forking.Process(target=linger, daemon=True).start()
"""
LEFT_OPEN = """
import gzip, pathlib, signal, sys, tempfile, zipfile
pathlib.Path("owned.py").write_text("import gzip; log = gzip.open('owned.gz', 'wt')")
sys.path.insert(0, ".")
import owned
owned.log.write("owned")
archive = zipfile.ZipFile("archive.zip", "w")
archive.writestr("member", "text")
packed = gzip.open("packed.gz", "wt")
packed.write("packed")
plain = open("plain", "w")
plain.write("plain")
named = tempfile.NamedTemporaryFile(dir=".")
folder = tempfile.TemporaryDirectory(dir=".")
signal.signal(signal.SIGTERM, lambda *_: packed.close())
"""
IN_A_CYCLE = f"""{LEFT_OPEN}
def use():
    return owned, archive, packed, plain, named, folder
"""
DELETED = """
WORD = "deleted"
class Thing:
    def __init__(self):
        self.me = self
    def __del__(self):
        print(WORD)
thing = Thing()
"""
LOGGED = """
import logging, logging.handlers
target = logging.FileHandler("log")
memory = logging.handlers.MemoryHandler(1000, target=target)
logging.getLogger().addHandler(memory)
logging.getLogger().warning("remembered")
"""
WRITTEN_IN_C = """
import ctypes
ctypes.CDLL(None).printf(b"from C")
"""
RAISING_AT_EXIT = """
import atexit
atexit.register(print, "the first, run last")
@atexit.register
def fail():
    raise LookupError("at exit")
"""
UNWRITABLE = """
import atexit, sys
atexit.register(print, "atexit", file=sys.stderr)
sys.stdout = open("/dev/full", "w")
print("lost")
"""
REPLACED_STREAM = """
import sys
sys.stdout = open("said", "w")
print("kept", end="")
"""
FORKED = """
import os
child = os.fork()
if child:
    os.waitpid(child, 0)
print("parent" if child else "child")
"""
PROGRAMS = [
    *(
        ORDER,
        FUTURES,
        CHILDREN,
        LEFT_OPEN,
        IN_A_CYCLE,
        DELETED,
        LOGGED,
        WRITTEN_IN_C,
        RAISING_AT_EXIT,
    ),
    *(UNWRITABLE, REPLACED_STREAM, FORKED),
    *(f"import sys; sys.exit({code})" for code in ("None", "3", "259", "True", "'words'", "[1]")),
    "import sys; print('unfinished', end=''); sys.exit(4)",
    "raise LookupError('failed')",
]


def outcome(command: list[str], program: str, home: Path) -> tuple[object, ...]:
    """What a script gives: its exit code, what it says, whether it complains, and its files."""
    home.mkdir()
    script = home.with_suffix(".py")
    script.write_text(program)
    environ = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=home,
        env=environ,
    )
    lines = [line.rpartition("│ ")[2] for line in without_chatter(done.stdout).splitlines()]
    files = {path.name: contents(path) for path in home.iterdir()}
    return done.returncode, lines, "Error" in done.stderr, files


def contents(path: Path) -> object:
    """What a file holds; that of an archive is read, since it also holds the time."""
    if path.suffix == ".zip":
        return zipfile.ZipFile(path).read("member")
    return gzip.open(path).read() if path.suffix == ".gz" else path.read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_rank_ends_as_any_program(tmp_path: Path, program: str) -> None:
    alone = outcome([sys.executable], program, tmp_path / "alone")
    assert outcome(RUN, program, tmp_path / "rank") == alone


def test_order_and_words(tmp_path: Path) -> None:
    """What the comparison with plain python rests on."""
    assert outcome(RUN, ORDER, tmp_path / "order")[1] == ["main", "thread", "atexit", "finalized"]


INTERRUPTED = """
import atexit, os, signal, threading, time
atexit.register(print, "atexit")
def work():
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
threading.Thread(target=work).start()
"""


def test_ctrl_c_while_a_thread_is_awaited(tmp_path: Path) -> None:
    """The interpreter's own end goes on to atexit, too."""
    alone = outcome([sys.executable], INTERRUPTED, tmp_path / "alone")
    assert outcome(RUN, INTERRUPTED, tmp_path / "rank")[:2] == alone[:2] == (0, ["atexit"])


def test_a_keyboard_interrupt_has_the_shells_code(tmp_path: Path) -> None:
    program = "import atexit; atexit.register(print, 'atexit'); raise KeyboardInterrupt"
    code, lines, _, _ = outcome(RUN, program, tmp_path / "rank")
    assert (code, lines) == (128 + signal.SIGINT, ["atexit"])


def test_coverage_is_measured(tmp_path: Path) -> None:
    program = "import os\nif os.environ['RANK'] == '1':\n    print(1)\nelse:\n    print(0)\n"
    script = tmp_path / "script.py"
    script.write_text(program)
    here = {"cwd": tmp_path, "timeout": PATIENCE, "check": True, "capture_output": True}
    coverage = [sys.executable, "-m", "coverage"]
    measured = [*coverage, "run", "--parallel-mode", f"--include={script}"]
    subprocess.run([*measured, "-m", "allranks", "run", "-n", "2", str(script)], **here)
    subprocess.run([*coverage, "combine"], **here)
    told = subprocess.run([*coverage, "report"], text=True, **here)
    assert "100%" in told.stdout
