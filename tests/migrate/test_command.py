"""``allranks migrate``, as a user types it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from allranks._migrate.rows import ROWS

ALLRANKS = [sys.executable, "-m", "allranks._cli", "migrate"]

FORM = "those who call it have to change, as its row says"

PROJECT = Path(__file__).parent / "project"

SOURCE = """
import torch.distributed as dist
def get_rank(): return dist.get_rank()
def barrier(x): return len(x)
def ring(x): dist.batch_isend_irecv(x)
def accuracy(x): return x
"""


def migrate(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALLRANKS, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environ},
    )


def test_a_table(tmp_path: Path) -> None:
    file = tmp_path / "dist_utils.py"
    file.write_text(SOURCE)
    done = migrate(str(file))
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line for line in done.stdout.splitlines() if line.startswith("│")]
    assert "get_rank, line 3" in rows[0]
    assert "allranks.get_rank()" in rows[0]
    assert "only its name is that of allranks.synchronize" in done.stdout
    assert "not recognised: dist.batch_isend_irecv" in done.stdout
    assert "1 recognised, 1 not recognised, 2 not about ranks. Not about ranks: accuracy" in (
        done.stdout.splitlines()
    )


def test_several_files_as_json_and_one_from_the_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "comm.py"
    file.write_text("")
    done = migrate("--json", str(file), "-", stdin=SOURCE)
    assert done.returncode == 0, done.stderr
    empty, told = json.loads(done.stdout)
    nothing = {"functions": [], "writes": [], "uses_what_stays": [], "look": [], "move": []}
    assert empty == {"file": str(file), **nothing}
    assert told["file"] == "-"
    assert told["functions"][0] == {
        "name": "get_rank",
        "line": 3,
        "status": "recognised",
        "known_by": "name and body",
        "ours": "get_rank",
        "write": "allranks.get_rank()",
        "note": ROWS[0].differs,
        "leaves": {},
    }
    assert [one["status"] for one in told["functions"][1:]] == [
        "not about ranks",
        "not recognised",
        "not about ranks",
    ]


def test_a_diff() -> None:
    done = migrate("--diff", "-", stdin=SOURCE)
    assert done.returncode == 0
    assert done.stdout.startswith("--- a/stdin.py\n+++ b/stdin.py\n@@")
    assert "+    return allranks.get_rank()\n" in done.stdout


def test_a_file_that_is_not_there_or_is_no_python_is_one_line_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    missing, broken, good = (tmp_path / name for name in ("missing.py", "broken.py", "good.py"))
    broken.write_text("def f(:\n")
    good.write_text(SOURCE)
    done = migrate("--json", str(missing), str(broken), str(good))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"allranks: {missing}: No such file or directory",
        f"allranks: {broken}: is no Python: line 1: invalid syntax",
    ]
    assert [one["file"] for one in json.loads(done.stdout)] == [str(good)]


def test_a_file_is_never_run(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    file = tmp_path / "misc.py"
    file.write_text(f"open({str(harm)!r}, 'w')\n{SOURCE}\n1 / 0\n")
    assert migrate(str(file)).returncode == 0
    assert migrate("--diff", str(file)).returncode == 0
    assert not harm.exists()


def test_neither_torch_nor_a_file_beside_is_imported(tmp_path: Path) -> None:
    for name in ("torch", "comm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    source = f"from comm import sync\n{SOURCE}"
    done = migrate("-", stdin=source, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 0, done.stderr


def test_names_are_no_markup_and_send_nothing_to_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "[red]\x1b[31m.py"
    file.write_text(SOURCE)
    done = migrate(str(file))
    assert "[red]\\x1b[31m.py" in done.stdout
    assert "\x1b" not in done.stdout


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What the command shows on a terminal of this width."""
    leader, follower = os.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    done = subprocess.Popen([*ALLRANKS, *arguments], stdout=follower, env=environ)
    os.close(follower)
    told = b""
    with suppress(OSError):  # The terminal is closed with the command.
        while part := os.read(leader, 4096):
            told += part
    os.close(leader)
    assert done.wait() == 0
    return re.sub(r"\x1b\[[\d;]*m", "", told.decode().replace("\r\n", "\n"))


@pytest.mark.parametrize("columns", [60, 80, 139])
def test_a_narrow_terminal_gets_lines_that_break_between_words(columns: int) -> None:
    shown = on_a_terminal(columns, str(PROJECT / "utils" / "misc.py"))
    assert "│" not in shown
    assert "  init_distributed_mode, line 139\n      write    allranks.setup()\n" in shown
    assert "      leaves   args.rank: read allranks.get_rank()\n" in shown
    words = {*subprocess_words(PROJECT / "utils" / "misc.py")}
    assert {*shown.split()} <= words
    long = [line for line in shown.splitlines() if len(line) > columns]
    assert [line for line in long if len(line.split()[-1]) < columns - 30] == []


def subprocess_words(file: Path) -> list[str]:
    """All words that the command says in wide lines, and those of the list alone."""
    wide = migrate(str(file), COLUMNS="1000").stdout.replace("│", " ")
    return [*wide.split(), "write", "differs", "leaves", "line"]


def test_a_wide_terminal_gets_a_table() -> None:
    assert "┃ function" in on_a_terminal(200, str(PROJECT / "utils" / "misc.py"))


@pytest.mark.parametrize("columns", [145, 160, 165, 170, 180])
def test_no_word_of_a_table_is_cut(columns: int) -> None:
    file = PROJECT / "utils" / "misc.py"
    shown = migrate(str(file), COLUMNS=str(columns)).stdout.replace("│", " ")
    whole = migrate(str(file), COLUMNS="1000").stdout.replace("│", " ")
    words = {word for word in whole.split() if word[0] not in "┏┃┡└"}
    assert words <= {*shown.split()}
    assert max(map(len, shown.splitlines())) > 100


def test_under_a_patch_it_says_what_it_leaves_and_git_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "dist_utils.py"
    stays = (
        "def set_seed(seed):\n    import torch\n    torch.manual_seed(seed)\n"
        "def get_rank_twice(x):\n    return 2 * dist.get_rank()\n"
        "class AverageMeter:\n    def update(self): pass\n"
        "    def all_reduce(self):\n        dist.all_reduce(x)\n        self.sum = self.count = 1\n"
        "dist.barrier()\n"
    )
    file.write_text(SOURCE + stays)
    done = subprocess.run(
        [*ALLRANKS, "--diff", file.name], capture_output=True, text=True, cwd=tmp_path
    )
    left = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert left == [
        "# Left as it is:",
        "#   line 5, ring: not recognised: dist.batch_isend_irecv",
        f"#   line 7, set_seed: {FORM}: write allranks.seed_all(seed)",
        "#   line 10, get_rank_twice: not recognised: in it, dist.get_rank is allranks.get_rank()",
        f"#   line 12, AverageMeter: {FORM}: write meter = allranks.meters.SmoothedValue()",
        "#   line 17, dist.barrier: it stands in no function: write allranks.synchronize() there",
        "#   Not about ranks: barrier, accuracy",
    ]
    applied = subprocess.run(
        ["git", "apply", "-"], input=done.stdout, text=True, cwd=tmp_path, capture_output=True
    )
    assert (applied.returncode, applied.stderr) == (0, "")
    assert "return allranks.get_rank()" in file.read_text()


def test_a_directory_tells_the_files_with_helpers_and_their_callers(tmp_path: Path) -> None:
    (tmp_path / "dist_utils.py").write_text(SOURCE)
    (tmp_path / "train.py").write_text("import dist_utils\nprint(dist_utils.get_rank())\n")
    (tmp_path / "other.py").write_text("def get_world_size(): return 1\n")
    shown = migrate(str(tmp_path)).stdout
    assert f"{tmp_path}/train.py:2  dist_utils.get_rank()  ->  allranks.get_rank()" in shown
    assert "other.py" not in shown
    told = json.loads(migrate("--json", str(tmp_path)).stdout)
    assert [Path(one["file"]).name for one in told] == ["dist_utils.py", "train.py"]
    assert told[1]["writes"][-1] == {
        "line": 2,
        "old": "dist_utils.get_rank",
        "new": "allranks.get_rank",
        "by_hand": "",
    }
    assert [one["name"] for one in told[0]["move"]] == ["barrier", "ring", "accuracy"]


def test_a_directory_without_helpers_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    assert migrate(str(tmp_path)).stdout == "No function about ranks in 1 file.\n"


def test_without_a_file_it_says_how_it_is_called() -> None:
    done = migrate()
    assert done.returncode == 2
    assert "Missing argument 'FILE...'" in done.stderr
