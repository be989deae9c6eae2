"""Each manifest's pods as hosts of their names, with exactly the variables that they find."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hosts import all_ended, network
from jobs import PROBE, wrong
from pods import MANIFESTS, pods

pytestmark = pytest.mark.timeout(120)

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("manifest", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
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


@pytest.mark.parametrize("manifest", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
def test_the_command_of_a_manifest_is_there(manifest) -> None:
    for pod in pods(manifest):
        program, script = pod.command
        assert program == "python"
        assert (REPOSITORY / script).exists()
