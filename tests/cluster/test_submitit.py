"""Submitit's Slurm executor, which Hydra's launcher uses: each point of a sweep is a job."""

from __future__ import annotations

import json

import pytest

from geometries import PYTHON
from jobs import EXAMPLES

pytestmark = pytest.mark.timeout(360)

TRAIN = str(EXAMPLES / "hydra_submitit" / "train.py")


def test_a_sweep_on_slurm(lab, tmp_path) -> None:
    """Two jobs of two hosts each, with one rank on each host."""
    options = ("hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2")
    layout = ("hydra.launcher.tasks_per_node=1", f"hydra.sweep.dir={tmp_path}/sweep")
    sweep = ("--multirun", "lr=0.01,0.03", "steps=20", *options, *layout)
    ended = lab.slurm.run(PYTHON, TRAIN, *sweep, timeout=300)
    assert ended.code == 0, ended.out
    found = [json.loads(path.read_text()) for path in (tmp_path / "sweep").rglob("result.json")]
    slow, fast = sorted(found, key=lambda result: result["lr"])
    for result, lr in ((slow, 0.01), (fast, 0.03)):
        assert (result["lr"], result["ranks"], result["launcher"]) == (lr, 2, "slurm")
    assert slow["loss"] > fast["loss"]
