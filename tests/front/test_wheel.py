"""What a release uploads: the wheel and the sdist, built here, and seen as pip and users do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import allranks

if TYPE_CHECKING:
    from email.message import Message

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SOURCE = REPOSITORY / "src"

RUNTIME = [
    "click>=8.1",
    "cloudpickle>=3",
    "exceptiongroup>=1.2; python_version < '3.11'",
    "msgspec>=0.18.6",
    "numpy>=1.24",
    "rich>=13.7",
    "tblib>=3",
    "torch>=2.7",
]
"""What every user gets: who adds to it, adds to each of their environments."""

(PINNED,) = re.findall(r"^torch==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)

pytest.importorskip("hatchling", reason="the file was installed without what builds it")


def built(target: str, place: Path) -> Path:
    """A distribution of this source, in a place where nothing else is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(place)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (made,) = place.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return built("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel, which has all else from the one of the tests."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    (packages / "tests.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return place


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def metadata(wheel: Path) -> Message:
    (name,) = (name for name in files(wheel) if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as file:
        return message_from_bytes(file.read(name))


def test_the_wheel_has_the_package_and_nothing_else(wheel) -> None:
    paths = [path for path in (SOURCE / "allranks").rglob("*") if path.is_file()]
    package = {str(path.relative_to(SOURCE)) for path in paths if path.suffix != ".pyc"}
    described = f"allranks-{allranks.__version__}.dist-info"
    beside = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert files(wheel) == package | {f"{described}/{name}" for name in beside}
    assert "allranks/py.typed" in files(wheel)


def test_the_wheel_is_for_every_python_and_platform(wheel) -> None:
    assert wheel.name == f"allranks-{allranks.__version__}-py3-none-any.whl"


def test_what_every_user_gets(wheel) -> None:
    required = metadata(wheel).get_all("Requires-Dist")
    asked = {line.replace('"', "'") for line in required if "extra ==" not in line}
    assert asked == set(RUNTIME)


def test_the_entry_points(wheel) -> None:
    (name,) = (name for name in files(wheel) if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as file:
        text = file.read(name).decode()
    assert text.split() == [
        "[console_scripts]",
        *("allranks", "=", "allranks._cli:main"),
        "[pytest11]",
        *("allranks", "=", "allranks.pytest_plugin"),
    ]


def test_the_metadata_hold_the_readme_and_the_version(wheel) -> None:
    told = metadata(wheel)
    assert told["Version"] == allranks.__version__
    assert told["License-Expression"] == "MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    assert (
        told.get_payload(decode=True).decode().strip()
        == (REPOSITORY / "README.md").read_text().strip()
    )


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="this is no clone")
def test_the_sdist_has_what_a_clone_has_but_for_ci(sdist) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, check=True)
    tracked = {name for name in listed.stdout.decode().split("\n") if name}
    of_ci = {name for name in tracked if name.startswith((".ci/", ".github/"))}
    with tarfile.open(sdist) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert held >= tracked - of_ci
    assert not held & of_ci


def checked_by_pyright(environment: Path, *arguments: str) -> None:
    """Run pyright as if the environment were a user's."""
    pytest.importorskip("basedpyright")
    first = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", *arguments],
        cwd=environment,
        env={**clean, "PATH": first, "VIRTUAL_ENV": str(environment)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_knows_the_type_of_each_public_name_of_the_wheel(environment) -> None:
    checked_by_pyright(environment, "--verifytypes", "allranks", "--ignoreexternal")


@pytest.mark.skipif(
    version("torch").partition("+")[0] != PINNED, reason="each torch has other types"
)
def test_pyright_accepts_a_user_s_program_with_the_wheel(environment) -> None:
    """In strict mode, and it refuses each line that is marked as wrong."""
    (environment / "typing_api.py").write_bytes((HERE / "typing_api.py").read_bytes())
    (environment / "pyrightconfig.json").write_text(
        '{"include": ["typing_api.py"], "typeCheckingMode": "strict", '
        '"reportUnnecessaryTypeIgnoreComment": "error"}'
    )
    python = str(environment / "bin" / "python")
    checked_by_pyright(environment, "--project", str(environment), "--pythonpath", python)
