"""Where ranks, and the processes that start them, look for modules: nowhere but where told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import allranks
from harness import PATIENCE
from torch_versions import without_torchs_directory

SCRIPTS = Path(sys.executable).parent
SHADOWED = ("torch", "selectors", "json", "pickle", "linecache", "mpi4py", "importlib")
"""Modules that are imported in the making of ranks, of which the working directory has others."""

LAUNCHES = """
import json, sys, allranks
if __name__ == "__main__":
    print(json.dumps([sys.path, *allranks.launch(lambda: list(sys.path), ranks=1)]))
"""

TELLS = """
import json, os, sys
import beside
if os.environ.get("RANK", "0") == "0":
    json.dump(sys.path, open(os.environ["TOLD"], "w"))
"""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with modules that leave a file when they are imported."""
    directory = tmp_path / "trap"
    directory.mkdir()
    for name in SHADOWED:
        text = f"open({str(directory)!r} + '/sprung-{name}', 'w').close()"
        (directory / f"{name}.py").write_text(text)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Where the program and its own modules are."""
    directory = tmp_path / "app"
    directory.mkdir()
    (directory / "beside.py").touch()
    return directory


def done(*command: object, **environ: str) -> str:
    """What a command writes."""
    process = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **environ},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def told_path(tmp_path: Path) -> list[str]:
    """The module path that a rank has told."""
    return without_torchs_directory(json.loads((tmp_path / "told").read_text()))


def sprung(trap: Path) -> list[str]:
    return [path.name for path in trap.glob("sprung-*")]


def test_launch_imports_nothing_from_the_working_directory(trap: Path, app: Path) -> None:
    (app / "train.py").write_text(LAUNCHES)
    callers, ranks = map(
        without_torchs_directory, json.loads(done(sys.executable, app / "train.py"))
    )
    assert sprung(trap) == []
    assert ranks == callers


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_a_rank_finds_modules_where_python_would(trap: Path, app: Path, tmp_path, how) -> None:
    (app / "train.py").write_text(TELLS)
    more = {"PYTHONPATH": str(tmp_path / "more"), "TOLD": str(tmp_path / "told")}
    done(sys.executable, app / "train.py", **more)
    expected = told_path(tmp_path)
    done(SCRIPTS / "allranks", "run", "-n", 2, *how, app / "train.py", **more)
    assert told_path(tmp_path) == expected
    assert sprung(trap) == []


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_a_module_is_found_where_python_would(app: Path, tmp_path, monkeypatch, how) -> None:
    (app / "train.py").write_text(TELLS)
    monkeypatch.chdir(app)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    done(sys.executable, "-m", "train")
    expected = told_path(tmp_path)
    done(SCRIPTS / "allranks", "run", "-n", 2, *how, "-m", "train")
    assert told_path(tmp_path) == expected
    done(sys.executable, "-m", "allranks._cli", "run", "-n", 2, *how, "-m", "train")
    assert told_path(tmp_path) == expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11 brought PYTHONSAFEPATH")
@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_a_safe_path_stays_safe(trap: Path, app: Path, tmp_path, how) -> None:
    (app / "train.py").write_text(TELLS.replace("import beside", ""))
    safe = {"PYTHONSAFEPATH": "1", "TOLD": str(tmp_path / "told")}
    done(sys.executable, app / "train.py", **safe)
    expected = told_path(tmp_path)
    done(SCRIPTS / "allranks", "run", "-n", 2, *how, app / "train.py", **safe)
    assert told_path(tmp_path) == expected
    assert sprung(trap) == []


def test_an_isolated_caller_has_isolated_ranks(trap: Path, app: Path) -> None:
    """What `python -I` does not believe, the process that forks its ranks does not either."""
    (app / "train.py").write_text(LAUNCHES)
    (trap / "sitecustomize.py").write_text((trap / "torch.py").read_text())
    told = done(sys.executable, "-I", app / "train.py", PYTHONPATH=str(trap))
    callers, ranks = map(without_torchs_directory, json.loads(told))
    assert sprung(trap) == []
    assert ranks == callers


def test_the_plugin_imports_nothing_from_the_working_directory(trap: Path, app: Path) -> None:
    (app / "test_it.py").write_text(
        "import sys, pytest\n@pytest.mark.ranks(2)\ndef test_it(world):\n"
        f"    assert {str(trap)!r} not in sys.path and '' not in sys.path\n"
    )
    done(SCRIPTS / "pytest", "-p", "no:cacheprovider", app / "test_it.py")
    assert sprung(trap) == []


def test_asking_mpi_imports_nothing_from_the_working_directory(trap: Path, app: Path) -> None:
    (app / "ask.py").write_text(
        "from allranks._rendezvous import mpi\nfrom allranks._system.waiting import Deadline\n"
        "print(mpi._asked_by_worker('message', Deadline.after(60)))"
    )
    assert done(sys.executable, app / "ask.py").startswith("MpiAnswer(")
    assert sprung(trap) == []


def test_a_package_that_only_the_caller_finds(tmp_path: Path) -> None:
    """The process that forks finds this package where the caller does."""
    home = Path(allranks.__file__).parents[1]
    program = f"import sys\nsys.path[:0] = [{str(home)!r}]\n{LAUNCHES}"
    (tmp_path / "train.py").write_text(program)
    callers, ranks = map(
        without_torchs_directory, json.loads(done(sys.executable, tmp_path / "train.py"))
    )
    assert str(home) in callers
    assert ranks == callers
