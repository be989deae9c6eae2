"""The main job: no line of it knows its launcher, and every launcher gives the same numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from example_runs import ALLRANKS_RUN, EXAMPLES, TORCHRUN, output


def digits(tmp_path: Path, launcher: tuple[str, ...], epochs: int) -> dict[str, str]:
    """The numbers that the example prints."""
    picture = tmp_path / "confusion.png"
    options = ("--epochs", str(epochs), "--picture", picture)
    told = output(*launcher, EXAMPLES / "digits.py", *options, cwd=tmp_path)
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = re.search(
        r"(?P<ranks>\d) ranks.*loss (?P<loss>\S+), parameters (?P<sum>\w+)"
        r".*accuracy (?P<right>[\d.]+)%",
        told,
        re.DOTALL,
    )
    assert found, told
    return found.groupdict()


def test_one_rank_learns(tmp_path: Path) -> None:
    told = digits(tmp_path, (sys.executable,), 20)
    assert told["ranks"] == "1"
    assert float(told["right"]) > 95


def test_four_ranks_learn_the_same_under_every_launcher(tmp_path: Path) -> None:
    ours = digits(tmp_path, (*ALLRANKS_RUN, "4"), 8)
    theirs = digits(tmp_path, (*TORCHRUN, "4"), 8)
    assert ours == theirs
    assert ours["ranks"] == "4"
    assert float(ours["right"]) > 95
