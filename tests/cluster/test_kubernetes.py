"""Each manifest's pods as hosts of their names, with exactly the variables that they find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from hosts import all_ended, network
from jobs import PROBE, wrong
from pods import MANIFESTS, pods

pytestmark = pytest.mark.timeout(120)

REPOSITORY = Path(__file__).parents[2]

NAMES = sorted(path.name for path in MANIFESTS.glob("*.yaml"))


@pytest.mark.parametrize("manifest", NAMES)
def test_the_pods_of_a_manifest_form_a_world(tmp_path, manifest) -> None:
    told = pods(manifest)
    names = {pod.name: (f"{pod.name}.{pod.domain}",) if pod.domain else () for pod in told}
    with network(tmp_path, names) as net:
        running = [
            host.start(sys.executable, *PROBE, environ=pod.environ)
            for host, pod in zip(net.hosts, told, strict=True)
        ]
        ended = all_ended(running)
    out = "".join(each.out for each in ended)
    assert not any(each.code for each in ended), out
    assert not wrong(out, "kubernetes", [pod.name for pod in told]), out


def test_the_command_of_the_manifests_trains(tmp_path) -> None:
    """As it stands there, with another directory for the volume."""
    (line,) = {pod.command for name in NAMES for pod in pods(name)}
    told = pods("indexed-job.yaml")
    volume = tmp_path / "checkpoints"
    volume.mkdir()
    with network(tmp_path, {pod.name: (f"{pod.name}.{pod.domain}",) for pod in told}) as net:
        running = [
            host.start(*command(line, volume), "--epochs=2", environ=pod.environ)
            for host, pod in zip(net.hosts, told, strict=True)
        ]
        first, *others = all_ended(running)
    assert not any(each.code for each in (first, *others)), (first, others)
    assert first.out.count("% right") == 2
    assert not any("% right" in each.out for each in others)
    assert len(torch.load(volume / "ddp.pt")["random"]) == len(told) == 4


def command(line: tuple[str, ...], volume: Path) -> list[str]:
    """What a container runs, whose directory and volume lie elsewhere here."""
    program, script, *options = line
    assert program == "python"
    assert options == ["--checkpoint", "/checkpoints/ddp.pt"]
    return [sys.executable, str(REPOSITORY / script), "--checkpoint", str(volume / "ddp.pt")]
