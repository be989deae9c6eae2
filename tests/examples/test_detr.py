"""A script in the style of DETR, before and after: the same numbers, by the lines that are told."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from example_runs import ALLRANKS_RUN, EXAMPLES, TORCHRUN, output

DETR = EXAMPLES / "detr"
BEFORE, AFTER = DETR / "before" / "main.py", DETR / "after" / "main.py"


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def told() -> str:
    """What is said of the project as it was."""
    return output(sys.executable, "-m", "allranks", "migrate", ".", cwd=DETR / "before")


def test_the_lines_that_migrate_tells_are_those_of_the_script(told: str) -> None:
    _, _, uses = told.partition("Where these are used, write:")
    new = [line.strip() for line in re.findall(r"->  (.*)", uses)]
    after = words(AFTER.read_text())
    for line in new:
        old = line.startswith("(delete it")
        assert old or words(line).partition("(...)")[0] in after, line
    calls = re.compile(r"allranks(?:\.\w+)+")
    assert {*calls.findall(" ".join(new))} == {*calls.findall(after)}


def test_nothing_is_left_of_the_helpers(told: str) -> None:
    assert "Nothing else is in util/misc.py: delete it" in told
    assert [path.name for path in (DETR / "after").glob("*[!_]")] == ["main.py"]
    assert "import util" not in AFTER.read_text()
    assert "by hand" not in told.lower()


def trained(command: tuple[str, ...], script: Path, out: Path) -> tuple[list[object], object]:
    """The numbers of each epoch, and the parameters at the end."""
    out.mkdir()
    output(*command, "2", script, "--epochs", "2", "--output_dir", out, cwd=out)
    log = [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]
    model = torch.load(out / "checkpoint.pth")["model"]
    return log, {name: tensor.tolist() for name, tensor in model.items()}


def test_both_train_to_the_same_numbers(tmp_path: Path) -> None:
    theirs = trained(TORCHRUN, BEFORE, tmp_path / "before")
    assert trained(TORCHRUN, AFTER, tmp_path / "torchrun") == theirs
    assert trained(ALLRANKS_RUN, AFTER, tmp_path / "allranks") == theirs
    assert len(theirs[0]) == 2
