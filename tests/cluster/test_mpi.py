"""What allranks says where MPI's launcher leaves rank 0's host untold."""

from __future__ import annotations

import pytest

import words
from geometries import PYTHON
from jobs import PROBE

pytestmark = pytest.mark.timeout(120)

TWO = {"h1": 1, "h2": 1}

WITHOUT_MPI4PY = """
import sys
sys.modules["mpi4py"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "mpi4py" else find(name, *more)
import allranks
allranks.setup(cpu=True)
"""


@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_without_any_help_the_error_tells_all_ways(lab, kind, tmp_path) -> None:
    script = tmp_path / "without.py"
    script.write_text(WITHOUT_MPI4PY)
    ended = lab.mpi.start(kind, TWO, (PYTHON, str(script))).ended()
    assert ended.code != 0
    assert f"ConfigError: launcher {kind}, 2 ranks: {words.NO_ADDRESS}" in ended.out
    for way in words.WAYS:
        assert way in ended.out


def test_an_mpi4py_of_another_mpi_is_found_out(lab) -> None:
    environ = lab.mpi.mpi4py("mpich")
    ended = lab.mpi.start("openmpi", TWO, (PYTHON, *PROBE), environ).ended()
    assert ended.code != 0
    assert "openmpi says rank 1 of 2, mpi4py says rank 0 of 1" in ended.out
    assert words.OTHER_MPI in ended.out


def test_an_mpi4py_that_cannot_be_imported_is_told(lab) -> None:
    ended = lab.mpi.start("openmpi", TWO, (PYTHON, *PROBE), {"MPI4PY_MPIABI": "mpich"}).ended()
    assert ended.code != 0
    assert words.NO_MPI4PY in ended.out
    for way in words.WAYS:
        assert way in ended.out


def test_a_program_that_uses_mpi4py_itself_keeps_it(lab, tmp_path) -> None:
    """Before, during and after the world of allranks."""
    script = tmp_path / "both.py"
    script.write_text(
        "from mpi4py import MPI\n"
        "import allranks\n"
        "for _ in range(2):\n"
        "    with allranks.session(cpu=True) as world:\n"
        "        assert allranks.all_reduce(1) == 2\n"
        "assert MPI.COMM_WORLD.allreduce(world.rank) == 1\n"
        "print('BOTH', flush=True)\n"
    )
    ended = lab.mpi.start("openmpi", TWO, (PYTHON, str(script)), lab.mpi.mpi4py("openmpi")).ended()
    assert ended.code == 0, ended.out
    assert ended.out.count("BOTH") == 2


def test_what_mpi_prints_is_no_answer(lab, tmp_path) -> None:
    """Some MPIs greet on standard output."""
    script = tmp_path / "loud.py"
    greets = tmp_path / "mpi4py"
    greets.mkdir()
    (greets / "__init__.py").write_text("print('[0] MPI startup(): hello', flush=True)\n")
    (greets / "MPI.py").write_text(
        "import os\n"
        "class COMM_WORLD:\n"
        "    Get_rank = lambda: int(os.environ['OMPI_COMM_WORLD_RANK'])\n"
        "    Get_size = lambda: 2\n"
        '    bcast = lambda text, root: \'{"addresses": ["h1"], "nonce": "1"}\'\n'
    )
    script.write_text("import allranks\nallranks.setup(cpu=True)\nprint('UP', flush=True)\n")
    environ = {"PYTHONPATH": str(tmp_path)}
    ended = lab.mpi.start("openmpi", TWO, (PYTHON, str(script)), environ).ended()
    assert ended.out.count("UP") == 2, ended.out


def test_a_second_world_does_without_mpi(lab, tmp_path) -> None:
    script = tmp_path / "twice.py"
    script.write_text(
        "import allranks\n"
        "for _ in range(2):\n"
        "    with allranks.session(cpu=True) as world:\n"
        "        assert allranks.all_reduce(1) == 2\n"
        "print('TWICE', flush=True)\n"
    )
    ended = lab.mpi.start("openmpi", TWO, (PYTHON, str(script)), lab.mpi.mpi4py("openmpi")).ended()
    assert ended.code == 0, ended.out
    assert ended.out.count("TWICE") == 2
