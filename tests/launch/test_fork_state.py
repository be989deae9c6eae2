"""What a forked rank has of its own, as a fresh process would: numbers, threads, signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
import torch

import allranks
from allranks._system import cgroups, cpus
from harness import wait_until

ALLRANKS = [sys.executable, "-m", "allranks"]
CPU = Path("/sys/fs/cgroup/cpu")


def run_script(
    tmp_path: Path, script: str, *options: str, before: tuple[str, ...] = (), **more
) -> subprocess.CompletedProcess:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    command = [*before, *ALLRANKS, "run", "-n", "2", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def drawn() -> dict[str, object]:
    return {
        "torch": torch.rand(1).item(),
        "numpy": np.random.rand(),  # noqa: NPY002 - the global state
        "random": random.random(),
        "uuid": uuid.uuid4().hex,
        "uuid1": uuid.uuid1().hex,
    }


def test_ranks_draw_numbers_of_their_own() -> None:
    """At each launch others, since the template is not a fresh one."""
    told = [one for _ in range(3) for one in allranks.launch(drawn, ranks=2)]
    for source in told[0]:
        assert len({one[source] for one in told}) == 6, source


DRAWING = """
    import random, torch, numpy
    print(torch.rand(1).item(), numpy.random.rand(), random.random())
"""


@pytest.mark.parametrize("options", [(), ("--spawn",)])
def test_ranks_of_a_script_draw_numbers_of_their_own(tmp_path, options) -> None:
    done = run_script(tmp_path, DRAWING, *options)
    numbers = [line.split()[-3:] for line in done.stdout.splitlines()]
    assert len(numbers) == 2, done
    assert not set(numbers[0]) & set(numbers[1])


PLUGIN = """
    import pytest, torch, allranks

    @pytest.mark.ranks(2)
    def test_numbers():
        drawn = allranks.all_gather_objects(torch.rand(1).item())
        assert drawn[0] != drawn[1]

    @pytest.mark.ranks(2)
    def test_seeded():
        torch.manual_seed(3)
        drawn = allranks.all_gather_objects(torch.rand(1).item())
        assert drawn[0] == drawn[1]
"""


def test_ranks_of_a_test_draw_numbers_of_their_own(tmp_path: Path) -> None:
    """A test that passes only since ranks draw alike would fail under any launcher."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(PLUGIN))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done


def threads() -> dict[str, object]:
    return {
        "torch": torch.get_num_threads(),
        "environ": os.environ["OMP_NUM_THREADS"],
        "blas": [
            one["num_threads"]
            for one in threadpoolctl.threadpool_info()
            if one["internal_api"] == "openblas"
        ],
    }


def test_threads_are_a_fair_share_of_the_cpus_that_may_be_used() -> None:
    """In the rank's OpenBLAS as well, and for the processes that it starts."""
    fair = max(1, int(cpus.usable_cpus()) // 2)
    for told in allranks.launch(threads, ranks=2):
        assert (told["torch"], told["environ"]) == (fair, str(fair))
        assert set(told["blas"]) <= {fair}


def test_as_many_threads_as_are_asked_for(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    [told] = allranks.launch(threads, ranks=1)
    assert (told["torch"], told["environ"]) == (3, "3")


THREADS = """
    import os, torch
    print(torch.get_num_threads(), os.environ["OMP_NUM_THREADS"])
"""


@pytest.mark.parametrize("options", [(), ("--spawn",)])
def test_threads_under_an_affinity(tmp_path: Path, options) -> None:
    """As a scheduler sets it; the machine has more."""
    one = str(min(os.sched_getaffinity(0)))
    here = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = run_script(
        tmp_path, THREADS, "--no-fold", *options, before=("taskset", "-c", one), env=here
    )
    lines = [line.split()[-2:] for line in done.stdout.splitlines()]
    assert lines == [["1", "1"]] * 2, done


@pytest.mark.skipif(not os.access(CPU, os.W_OK), reason="needs cgroup v1 and root")
def test_threads_under_a_quota(tmp_path: Path) -> None:
    """As a container sets it: half a CPU."""
    group = CPU / f"allranks-test-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    (group / "cpu.cfs_quota_us").write_text("50000")
    try:
        code = "from allranks._system.cpus import usable_cpus; print(usable_cpus())"
        enter = f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"'
        done = subprocess.run(
            ["sh", "-c", enter, sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "0.5"
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


@pytest.mark.parametrize(
    ("maximum", "expected"), [("150000 100000", 1.5), ("max 100000", None), ("", None)]
)
def test_the_quota_of_a_cgroup_above_counts(tmp_path, monkeypatch, maximum, expected) -> None:
    """Version 2 has one tree; that of a container begins where its path does not lead."""
    (tmp_path / "pod" / "container").mkdir(parents=True)
    (tmp_path / "pod" / "cpu.max").write_text(maximum)
    (tmp_path / "pod" / "container" / "cpu.max").write_text("max 100000")
    (tmp_path / "membership").write_text("0::/pod/container\n1:name=systemd:/x\n")
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "MEMBERSHIP", tmp_path / "membership")
    affinity = len(os.sched_getaffinity(0))
    assert cpus.usable_cpus() == min(affinity, expected or affinity)


HUNG_UP = """
    import json, os, signal, time
    print(json.dumps([signal.getsignal(n) == signal.SIG_IGN for n in (1, 2, 15)]), flush=True)
    while not os.path.exists(os.environ["ENOUGH"]):
        time.sleep(0.02)
    print("went on", flush=True)
"""


@pytest.mark.parametrize("options", [(), ("--spawn",)])
def test_what_is_ignored_at_the_start_stays_ignored(tmp_path: Path, options) -> None:
    """Under nohup a hangup ends nothing: neither the command, nor its ranks."""
    script, enough = tmp_path / "script.py", tmp_path / "enough"
    script.write_text(textwrap.dedent(HUNG_UP))
    job = subprocess.Popen(
        ["nohup", *ALLRANKS, "run", "-n", "2", "--no-fold", *options, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ENOUGH": str(enough)},
    )
    told = [json.loads(job.stdout.readline().partition("│")[2]) for _ in range(2)]
    assert told == [[True, False, False]] * 2
    job.send_signal(signal.SIGHUP)
    enough.touch()
    rest, _ = job.communicate()
    assert (job.returncode, rest.count("went on")) == (0, 2), rest
