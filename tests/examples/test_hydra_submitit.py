"""A sweep by Hydra's launcher for submitit: two jobs at once on this host, two ranks each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from example_runs import ALLRANKS_RUN, EXAMPLES, output

TRAIN = EXAMPLES / "hydra_submitit" / "train.py"


def results(directory: Path) -> list[dict[str, object]]:
    found = [json.loads(path.read_text()) for path in directory.rglob("result.json")]
    return sorted(found, key=lambda result: result["lr"])


def test_each_point_of_a_sweep_is_a_job_of_its_own_ranks(tmp_path: Path) -> None:
    sweep = ("--multirun", "lr=0.01,0.03", "steps=20", "hydra.sweep.dir=sweep")
    output(sys.executable, TRAIN, *sweep, cwd=tmp_path)
    slow, fast = results(tmp_path / "sweep")
    for found, lr in ((slow, 0.01), (fast, 0.03)):
        assert (found["lr"], found["ranks"], found["launcher"]) == (lr, 2, "submitit")
    assert slow["loss"] > fast["loss"]


def test_a_point_runs_under_any_launcher(tmp_path: Path) -> None:
    run = ("lr=0.03", "steps=20", "hydra.run.dir=run")
    output(*ALLRANKS_RUN, "2", TRAIN, *run, cwd=tmp_path)
    (found,) = results(tmp_path / "run")
    assert (found["ranks"], found["launcher"]) == (2, "allranks")
