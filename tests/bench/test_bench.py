"""``allranks bench`` as a user types it, on real ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from allranks._bench.plan import COLLECTIVES
from allranks._bench.results import read_report
from allranks._system.typed_json import written
from bench_report import report
from harness import PATIENCE

ALLRANKS = [sys.executable, "-m", "allranks"]
SHORT = ("-e", "4K", "-f", "32", "--seconds", "0.001")
SHORTEST = ("-b", "4K", "-e", "4K", "--seconds", "0.001", "--collective", "broadcast")


def command(ranks: int, *options: str) -> list[str]:
    return [*ALLRANKS, "run", "-n", str(ranks), "-m", "allranks", "bench", *options]


def bench(place: Path, ranks: int, *options: str, **environ: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(ranks, *options),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=place,
        env={**os.environ, **environ},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """One run of everything, on 4 ranks."""
    place = tmp_path_factory.mktemp("bench")
    return place, bench(place, 4, *SHORT, "--json", "run.json")


def test_every_call_and_every_pair_is_told(run) -> None:
    place, done = run
    assert done.returncode == 0, done.stderr
    told = read_report(place / "run.json")
    sizes = {
        name: [row.bytes for row in told.rows if row.collective == name] for name in COLLECTIVES
    }
    whole, parted = [4, 128, 4096], [16, 128, 4096]
    assert sizes == {
        name: whole if name in ("all_reduce", "broadcast") else parted for name in COLLECTIVES
    }
    for row in told.rows:
        assert row.torchs is not None, row.note
        assert row.ratio > 0
        for timing in (row.ours, row.torchs):
            assert 0 < timing.low <= timing.seconds <= timing.high
            assert timing.algbw == pytest.approx(row.bytes / timing.seconds / 1e9)
    assert [(pair.source, pair.target) for pair in told.pairs.pairs] == [*permutations(range(4), 2)]
    assert all(pair.latency > 0 and pair.bandwidth > 0 for pair in told.pairs.pairs)
    assert (told.pairs.small, told.pairs.large) == (4, 4096)
    assert (told.setting.launcher, told.setting.backend) == ("allranks", "gloo")
    assert len(told.setting.hosts) == 4
    assert told.setting.nodes == (0, 0, 0, 0)
    assert not told.notes


def test_the_table_names_every_collective_and_the_slowest_pair(run) -> None:
    place, done = run
    told = read_report(place / "run.json")
    for name in COLLECTIVES:
        assert f"│  {name} " in done.stdout, done.stdout
    slowest = told.pairs.slowest
    host = told.setting.hosts[0]
    named = f"rank {slowest.source} on {host} to rank {slowest.target} on {host}"
    assert f"slowest pair: {named}, " in done.stdout
    assert done.stdout.count("all_reduce") == 1


def test_the_picture_is_written_without_being_asked_for(run) -> None:
    place, done = run
    assert {path.name for path in place.iterdir()} == {
        "run.json",
        "allranks-bench.png",
        "allranks-bench.svg",
    }
    assert "written: run.json, allranks-bench.png, allranks-bench.svg" in done.stderr


def test_a_run_is_compared_with_an_earlier_one(run, tmp_path: Path) -> None:
    place, _ = run
    old = str(place / "run.json")
    done = bench(tmp_path, 4, *SHORTEST, "--no-pairs", "--no-picture", "--compare", old)
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("compared with")[2]
    assert "broadcast" in table
    assert "4 KiB" in table
    assert "all_reduce" not in table
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (written(report(hosts=("a", "b", "c"))), "world_size 3, and now 2"),
        (written(report(hosts=("a", "b"), backend="nccl")), "backend 'nccl', and now 'gloo'"),
        ('{"rows": [', "was not written by `allranks bench --json`, or not whole"),
    ],
)
def test_an_earlier_run_that_cannot_be_compared_is_refused_at_once(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "old.json").write_text(text)
    done = bench(tmp_path, 2, "--compare", "old.json")  # Which would take minutes.
    assert done.returncode == 1
    assert done.stderr.count("Error: --compare: ") == 1, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "collective" not in done.stdout


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    done = bench(tmp_path, 2, "--json", "absent/run.json")
    assert done.returncode == 1
    assert done.stderr.count("Error: absent/run.json cannot be written") == 1, done.stderr


def test_a_world_of_one_is_told_what_to_type(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ALLRANKS, "bench"], capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "a world of one has no other rank to send to" in done.stderr
    assert "allranks run -n 4 -m allranks bench" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-b", "four"), "'four' is no size; write bytes, or a number and K, M or G"),
        (("-b", "2M", "-e", "1M"), "--min-bytes 2097152 is above --max-bytes 1048576"),
        (("-f", "1"), "1 is not in the range"),
        (("--seconds", "0"), "0.0 is not in the range"),
        (("--collective", "reduce"), "'reduce' is not one of"),
    ],
)
def test_nonsense_is_refused(options: tuple[str, ...], told: str) -> None:
    done = subprocess.run(
        [*ALLRANKS, "bench", *options], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert told in done.stderr


def test_json_can_go_to_standard_output(tmp_path: Path) -> None:
    """Under a launcher that writes nothing before the lines of ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "allranks", "bench", *SHORTEST, "--json", "-", "--no-picture"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["setting"]["launcher"] == "torchrun"
    assert [row["collective"] for row in told["rows"]] == ["broadcast"]
    assert "slowest pair: rank " in done.stderr


def test_without_matplotlib_the_rest_is_done(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "class NoMatplotlib:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'matplotlib':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoMatplotlib())\n"
    )
    path = os.pathsep.join([str(blocked), *sys.path])
    done = bench(tmp_path, 2, *SHORTEST, "--json", "run.json", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no picture is drawn: it needs matplotlib; `pip install") == 1
    assert read_report(tmp_path / "run.json").pairs
    assert {path.name for path in tmp_path.iterdir()} == {"blocked", "run.json"}


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(2, "--seconds", "100", "--collective", "broadcast"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    ) as running:
        assert "measuring " in running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signal.SIGINT, err
    assert "Traceback" not in err
