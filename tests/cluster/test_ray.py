"""Ray on two hosts: actors that form a group, and Ray Train's workers."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from jobs import EXAMPLES
from ray_cluster import Ray, ray

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

FORM = """
import json, ray
from ray_actors import RankActor

ray.init(logging_level="ERROR", log_to_driver=False)
actors = [RankActor.remote() for _ in range(2)]
place = ray.get(actors[0].place.remote())
"""

BOTH_WAYS = (
    FORM
    + """
for way in ("by_settings", "by_variables"):
    told = ray.get([getattr(a, way).remote(rank, 2, place) for rank, a in enumerate(actors)])
    print("TOLD", json.dumps(told), flush=True)
    ray.get([actor.leave.remote() for actor in actors])
"""
)

DEAD = (
    FORM
    + """
ray.get([a.by_settings.remote(rank, 2, place) for rank, a in enumerate(actors)])
import time
time.sleep(3)  # The watches come to know each other.
waiting = actors[0].work.remote()
ray.kill(actors[1])
try:
    ray.get(waiting)
except Exception as error:
    print("TOLD", json.dumps(" ".join(str(error).split())), flush=True)
"""
)

TRAIN = """
import json, ray, sys
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

def loop(config):
    import os, socket
    import allranks
    before = allranks.detect(os.environ)
    allranks.setup(cpu=True)
    total = allranks.all_reduce(allranks.get_rank() + 1)
    told = {"launcher": before.launcher, "rank": before.rank, "local_rank": before.local_rank,
            "host": socket.gethostname(), "total": total}
    with open(os.path.join(config["directory"], f"told{before.rank}"), "w") as file:
        json.dump(told, file)

scaling = ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD")
TorchTrainer(
    loop,
    train_loop_config={"directory": sys.argv[1]},
    scaling_config=scaling,
    torch_config=TorchConfig(backend="gloo"),
    run_config=RunConfig(storage_path=sys.argv[1]),
).fit()
"""


@pytest.fixture(scope="module")
def cluster(net) -> Iterator[Ray]:
    # Ray's sockets have the directory's name in theirs, which may not be long.
    with tempfile.TemporaryDirectory(prefix="ray") as base, ray(Path(base), net) as running:
        yield running


def told(out: str) -> list[object]:
    return [json.loads(line[5:]) for line in out.splitlines() if line.startswith("TOLD ")]


def test_actors_form_a_group_by_settings_and_by_variables(cluster, tmp_path) -> None:
    script = tmp_path / "both.py"
    script.write_text(BOTH_WAYS)
    ended = cluster.run(str(script))
    assert ended.code == 0, ended.out
    wanted = [{"launcher": "ray", "rank": r, "host": f"h{r + 1}", "total": 3} for r in (0, 1)]
    found = told(ended.out)
    assert len(found) == 2, ended.out
    for group in found:
        hosts = {one.pop("host") for one in group}
        assert hosts == {"h1", "h2"}
        assert group == [{k: v for k, v in one.items() if k != "host"} for one in wanted]


def test_a_dead_actor_is_named(cluster, tmp_path) -> None:
    script = tmp_path / "dead.py"
    script.write_text(DEAD)
    ended = cluster.run(str(script))
    assert ended.code == 0, ended.out
    (error,) = told(ended.out)
    assert "PeerFailedError" in str(error)
    assert "rank 1" in str(error)


def test_the_workers_of_ray_train_are_detected(cluster, tmp_path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    ended = cluster.run(str(script), str(tmp_path), timeout=150)
    assert ended.code == 0, ended.out
    found = [json.loads((tmp_path / f"told{rank}").read_text()) for rank in (0, 1)]
    assert {one.pop("host") for one in found} == {"h1", "h2"}
    assert found == [
        {"launcher": "ray", "rank": rank, "local_rank": 0, "total": 3} for rank in (0, 1)
    ]


def in_one_process(epochs: int) -> float:
    """The last loss of the example's training, on all rows and without Ray."""
    torch.manual_seed(0)
    rows = torch.randn(256, 8)
    targets = torch.sin(rows.sum(1, keepdim=True))
    network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(rows), targets)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_the_example_of_ray_train(cluster, tmp_path) -> None:
    options = ("--workers=2", "--epochs=20", f"--storage={tmp_path}")
    ended = cluster.run(str(EXAMPLES / "ray_train.py"), *options, timeout=150)
    found = re.search(r"\{'loss': ([\d.]+), 'ranks': 2\}, the model in", ended.out)
    assert found, ended.out
    assert ended.code == 0, ended.out
    assert float(found[1]) == pytest.approx(in_one_process(20), rel=1e-4)
    assert list(tmp_path.rglob("model.pt"))
