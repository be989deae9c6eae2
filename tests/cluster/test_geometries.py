"""Under every launcher, wherever it puts the ranks: they come up, and know where they stand."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from geometries import GEOMETRIES, PYTHON, Geometry
from hosts import all_ended
from jobs import COLLECTIVES, DIGITS, PROBE, wrong
from model import check, expected, steps

pytestmark = pytest.mark.timeout(120)

BY_NAME = {str(geometry): geometry for geometry in GEOMETRIES}
WHOLE = [
    "torchrun: 2 hosts, c10d",
    "slurm: 2 hosts, 2 tasks each",
    "slurm: -m arbitrary, rank 0 on the last host",
    "openmpi: 2 hosts",
    "mpich: 2 hosts",
]
"""Where the example is trained and all collectives are tried as well."""


def output(lab, geometry: Geometry, script: tuple[str, ...]) -> str:
    """What a script writes, which must succeed on all its ranks."""
    ended = all_ended(geometry.start(lab, script), 90)
    out = "".join(each.out for each in ended)
    assert not any(each.code for each in ended), out
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_ranks_come_up_where_the_launcher_puts_them(lab, geometry) -> None:
    out = output(lab, geometry, PROBE)
    assert not wrong(out, geometry.launcher, geometry.hosts), out


@pytest.mark.parametrize("name", [n for n in BY_NAME if n.startswith("slurm") and "step" not in n])
def test_slurm_itself_says_the_same(lab, name, tmp_path) -> None:
    """The geometry is what it claims to be: else the test above would show little."""
    script = tmp_path / "where.py"
    script.write_text("import os\nprint(os.environ['SLURM_PROCID'], os.uname().nodename)\n")
    told = re.findall(r"^(\d+) (h\d)$", output(lab, BY_NAME[name], (str(script),)), re.MULTILINE)
    assert tuple(host for _, host in sorted(told)) == BY_NAME[name].hosts


@pytest.fixture(scope="module")
def alone(lab, tmp_path_factory) -> str:
    """The loss and the parameters that the example comes to on four ranks of one host."""
    return trained(lab, BY_NAME["allranks: run -n 4"], tmp_path_factory.mktemp("digits"))


def trained(lab, geometry: Geometry, directory) -> str:
    picture = directory / "confusion.png"
    out = output(lab, geometry, (*DIGITS, "--epochs", "3", "--picture", str(picture)))
    assert picture.exists()
    found = re.search(r"loss \S+, parameters \w+", out)
    assert found, out
    return found.group()


@pytest.mark.parametrize("name", WHOLE)
def test_the_example_comes_to_the_same_numbers(lab, alone, name, tmp_path) -> None:
    assert trained(lab, BY_NAME[name], tmp_path) == alone


def drawn() -> list[object]:
    """Steps that hypothesis draws, the same each time."""
    programs: list[list[object]] = []

    @settings(
        max_examples=5,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(steps(4), min_size=8, max_size=12))
    def draw(program) -> None:
        programs.append(program)

    draw()
    return [step for program in programs for step in program]


@pytest.mark.parametrize("name", WHOLE)
def test_collectives_do_what_the_model_says(lab, name, tmp_path) -> None:
    program = drawn()
    file = tmp_path / "program"
    file.write_bytes(pickle.dumps(program))
    output(lab, BY_NAME[name], (*COLLECTIVES, str(file)))
    for rank in range(4):
        results = pickle.loads(file.with_name(f"program.{rank}").read_bytes())
        for step, got in zip(program, results, strict=True):
            check(got, expected(step, rank))


def test_a_script_is_a_script(lab, tmp_path) -> None:
    """A program that fails is seen to fail: else ``output`` would show nothing."""
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit(3)\n")
    (running,) = BY_NAME["single: python"].start(lab, (str(script),))
    assert running.ended().code == 3
    assert PYTHON in running.process.args
