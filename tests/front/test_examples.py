"""The main job: no line of it knows its launcher, and every launcher gives the same numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from harness import PATIENCE

DIGITS = Path(__file__).parents[2] / "examples" / "digits.py"

LAUNCHED_BY = {
    "python": [sys.executable],
    "allranks": [sys.executable, "-m", "allranks._cli", "run", "-n"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"],
}


def digits(tmp_path: Path, launcher: list[str], epochs: int) -> dict[str, str]:
    """The numbers that the example prints."""
    picture = tmp_path / "confusion.png"
    done = subprocess.run(
        [*launcher, str(DIGITS), "--epochs", str(epochs), "--picture", str(picture)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = re.search(
        r"(?P<ranks>\d) ranks.*loss (?P<loss>\S+), parameters (?P<sum>\w+)"
        r".*accuracy (?P<right>[\d.]+)%",
        done.stdout,
        re.DOTALL,
    )
    assert found, done.stdout
    return found.groupdict()


def test_one_rank_learns(tmp_path: Path) -> None:
    told = digits(tmp_path, LAUNCHED_BY["python"], 20)
    assert told["ranks"] == "1"
    assert float(told["right"]) > 95


def test_four_ranks_learn_the_same_under_every_launcher(tmp_path: Path) -> None:
    ours = digits(tmp_path, [*LAUNCHED_BY["allranks"], "4"], 8)
    theirs = digits(tmp_path, [*LAUNCHED_BY["torchrun"], "4"], 8)
    assert ours == theirs
    assert ours["ranks"] == "4"
    assert float(ours["right"]) > 95
