"""``allranks migrate``, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ALLRANKS = [sys.executable, "-m", "allranks._cli", "migrate"]

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
        "note": "before setup it is what the launcher says, not 0",
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


def test_without_a_file_it_says_how_it_is_called() -> None:
    done = migrate()
    assert done.returncode == 2
    assert "Missing argument 'FILE...'" in done.stderr
