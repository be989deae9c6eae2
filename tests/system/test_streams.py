"""What is shown reaches any terminal; where there is none, nothing fails for it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from allranks._launch import launch
from allranks._launch.rank_output import RankOutput
from allranks._system import streams
from harness import PATIENCE
from torch_versions import without_chatter

RUN = ("-m", "allranks._cli", "run", "-n", "2", "--no-fold")

PROGRAM = """
import os, sys, allranks
def work():
    with allranks.session(cpu=True) as world:
        print("hello", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        allranks.all_reduce(1)
        open(f"{os.environ['MARKS']}/{world.rank}", "w").close()
if "RANK" in os.environ:
    work()
elif __name__ == "__main__":
    allranks.launch(work, ranks=2, fold=False)
"""

TEST = """
import pytest
@pytest.mark.ranks(2)
def test_it(world):
    print("hello")
"""

BOUND = 1 << 20
"""Bytes that may be kept of a line."""

TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict": {"PYTHONIOENCODING": "latin-1:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A script whose ranks leave marks in the directory of these."""
    (tmp_path / "marks").mkdir()
    monkeypatch.setenv("MARKS", str(tmp_path / "marks"))
    (tmp_path / "program.py").write_text(PROGRAM)
    return str(tmp_path / "program.py")


def python(*arguments: str, closed: str = "", **environ: str):
    """Run the interpreter, with a standard stream closed as a shell does it."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *arguments],
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, **environ},
    )
    done.stdout = without_chatter(done.stdout.decode()).encode()
    return done


@pytest.mark.parametrize("how", [(), RUN, (*RUN, "--spawn")], ids=["launch", "run", "spawn"])
@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_terminal_that_cannot_draw_a_bar(program: str, terminal: str, how: tuple) -> None:
    done = python(*how, program, **TERMINALS[terminal])
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [b"0| hello", b"1| hello"]


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_session_of_pytest_on_such_a_terminal(tmp_path: Path, terminal: str) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    session = ("-m", "pytest", "-s", "-p", "no:cacheprovider", str(tmp_path / "test_it.py"))
    done = python(*session, **TERMINALS[terminal])
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"0| hello" in done.stdout


@pytest.mark.parametrize("how", [(), RUN, (*RUN, "--spawn")], ids=["launch", "run", "spawn"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(program: str, tmp_path: Path, closed: str, how: tuple) -> None:
    done = python(*how, program, closed=closed)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "marks").iterdir()) == ["0", "1"]
    if closed == "2>&-":
        assert sorted(done.stdout.decode().splitlines()) == ["0│ hello", "1│ hello"]


def test_a_failure_is_told_where_no_stream_is_open(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise ValueError('boom')")
    assert python(*RUN, str(script), closed=">&- 2>&-").returncode == 1


@pytest.mark.parametrize("terminal", TERMINALS)
def test_the_world_is_shown_on_such_a_terminal(terminal: str) -> None:
    environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h\u014dte", "MASTER_PORT": "1234"}
    done = python("-m", "allranks._cli", "env", **environ, **TERMINALS[terminal])
    assert done.returncode == 0, done.stderr
    assert rb"h\u014dte" in done.stdout


def test_what_cannot_be_encoded_is_escaped() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    streams.show(terminal, "größe\n")
    assert terminal.buffer.getvalue() == b"gr\\xf6\\xdfe\n"
    terminal.close()
    streams.show(terminal, "nobody hears")
    streams.show(None, "nor this")


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"y" * 7001])
def test_a_line_without_an_end_is_kept_in_bounds_and_passed_on_in_pieces(chunk: bytes) -> None:
    """What is kept, and so what each further text costs, does not grow with the line."""
    lines = streams.LineSplitter()
    pieces = []
    for _ in range(600):
        pieces += lines.split(0, chunk)
        assert len(lines.unfinished[0]) <= BOUND
    pieces += lines.split(0, b"")
    assert b"".join(pieces) == chunk * 600
    assert all(len(piece) <= BOUND + len(chunk) for piece in pieces)
    assert len(pieces) <= 600 * len(chunk) // BOUND + 1


def test_lines_come_whole_however_they_are_cut() -> None:
    text = b"one\n\ntwo\nlast"
    for size in range(1, len(text) + 1):
        lines = streams.LineSplitter()
        cut = [text[start : start + size] for start in range(0, len(text), size)]
        found = [line for part in [*cut, b""] for line in lines.split(0, part)]
        assert found == [b"one", b"", b"two", b"last"]


def test_both_ways_of_passing_on_keep_an_endless_line_in_bounds(capfdbinary) -> None:
    for output in (launch.CallerOutput(1), RankOutput(1)):
        for _ in range(64):
            output.write(0, 1, b"x" * 65536)
            assert len(output._lines.unfinished[0, 1]) <= BOUND
        output.write(0, 1, b"")
    sys.stdout.flush()
    shown = capfdbinary.readouterr().out.replace("0│ ".encode(), b"").replace(b"\n", b"")
    assert shown == b"x" * 65536 * 64 * 2


def test_of_progress_that_ends_in_a_carriage_return_the_last_state_is_kept(capfdbinary) -> None:
    output = RankOutput(1)
    for step in range(3):
        output.write(0, 1, b"step %d\r" % step)
        assert output._lines.unfinished[0, 1] == b"step %d\r" % step
    output.write(0, 1, b"\n")
    sys.stdout.flush()
    assert capfdbinary.readouterr().out.endswith(b" step 2\n")


def test_ranks_whose_output_goes_to_a_file_may_set_their_streams(tmp_path: Path) -> None:
    """The command's own output is a file, which has a place in it; a rank's is a pipe."""
    script = tmp_path / "sets.py"
    script.write_text(
        "import sys\n"
        "for stream in (sys.stdout, sys.stderr, sys.__stdout__):\n"
        "    assert not stream.seekable()\n"
        "    stream.reconfigure(errors='replace')\n"
        "print(sys.stdout.name, sys.stderr.name, sys.stdout.encoding)\n"
    )
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        line = [sys.executable, "-m", "allranks", "run", "-n", "2", str(script)]
        ended = subprocess.run(line, stdout=out, stderr=err, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, (tmp_path / "err").read_text()
    assert (tmp_path / "out").read_text().startswith("0-1│ <stdout> <stderr> utf-8")
