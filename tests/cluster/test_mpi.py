"""What allranks says where MPI's launcher leaves rank 0's host untold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import words
from geometries import PYTHON
from jobs import PROBE

if TYPE_CHECKING:
    from hosts import Ended

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


SOME_WORLDS = """
import allranks
for _ in range(2):
    with allranks.session(cpu=True) as world:
        assert allranks.all_reduce(1) == 2
"""


def ended(lab, kind, source: str, environ: dict[str, str] | None = None) -> Ended:
    """How a program of these lines ends, with one rank on each of two hosts."""
    return lab.mpi.start(kind, TWO, (PYTHON, "-c", source), environ).ended()


@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_without_any_help_the_error_tells_all_ways(lab, kind) -> None:
    found = ended(lab, kind, WITHOUT_MPI4PY)
    assert found.code != 0
    assert f"ConfigError: launcher {kind}, 2 ranks: {words.NO_ADDRESS}" in found.out
    for way in words.WAYS:
        assert way in found.out


def test_an_mpi4py_of_another_mpi_is_found_out(lab) -> None:
    environ = lab.mpi.mpi4py("mpich")
    found = lab.mpi.start("openmpi", TWO, (PYTHON, *PROBE), environ).ended()
    assert found.code != 0
    assert "openmpi says rank 1 of 2, mpi4py says rank 0 of 1" in found.out
    assert words.OTHER_MPI in found.out


def test_an_mpi4py_that_cannot_be_imported_is_told(lab) -> None:
    found = lab.mpi.start("openmpi", TWO, (PYTHON, *PROBE), {"MPI4PY_MPIABI": "mpich"}).ended()
    assert found.code != 0
    assert words.NO_MPI4PY in found.out
    for way in words.WAYS:
        assert way in found.out


def test_a_program_that_uses_mpi4py_itself_keeps_it(lab) -> None:
    """Before, during and after the world of allranks."""
    after = "assert MPI.COMM_WORLD.allreduce(world.rank) == 1\nprint('BOTH', flush=True)\n"
    source = f"from mpi4py import MPI\n{SOME_WORLDS}{after}"
    found = ended(lab, "openmpi", source, lab.mpi.mpi4py("openmpi"))
    assert found.code == 0, found.out
    assert found.out.count("BOTH") == 2


def test_a_second_world_does_without_mpi(lab) -> None:
    source = f"{SOME_WORLDS}print('TWICE', flush=True)\n"
    found = ended(lab, "openmpi", source, lab.mpi.mpi4py("openmpi"))
    assert found.code == 0, found.out
    assert found.out.count("TWICE") == 2


def test_what_mpi_prints_is_no_answer(lab, tmp_path) -> None:
    """Some MPIs greet on standard output."""
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
    source = "import allranks\nallranks.setup(cpu=True)\nprint('UP', flush=True)\n"
    found = ended(lab, "openmpi", source, {"PYTHONPATH": str(tmp_path)})
    assert found.out.count("UP") == 2, found.out
