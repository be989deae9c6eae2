"""A small project, migrated by following what the command says line by line, gives its numbers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE

PROJECT = Path(__file__).parent / "project"

MIGRATE = [sys.executable, "-m", "allranks._cli", "migrate"]

PLACE = re.compile(r"(?P<file>[\w/]+\.py):(?P<line>\d+)  (?P<old>.*?)(  ->  (?P<new>.*))?$")


def migrate(*arguments: str, cwd: Path) -> str:
    done = subprocess.run([*MIGRATE, *arguments], capture_output=True, text=True, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def told(output: str) -> list[tuple[str, int, str, list[str]]]:
    """File, line, what is there, and the lines to write there: as a reader takes them."""
    found: list[tuple[str, int, str, list[str]]] = []
    for line in output.splitlines():
        place = PLACE.match(line)
        if place:
            new = [place["new"]] if place["new"] else []
            found.append((place["file"], int(place["line"]), place["old"], new))
        elif line.startswith("    ->  "):
            found[-1][3].append(line.removeprefix("    ->  "))
    return [one for one in found if one[3]]


def follow(root: Path, output: str) -> None:
    """Write what the command says, from the last line of each file to its first."""
    for file, line, old, new in reversed(told(output)):
        path = root / file
        lines = path.read_text().splitlines(keepends=True)
        at = line - 1
        indent = re.match(r" *", lines[at])[0]
        if new[0].startswith("(delete"):
            assert lines[at].strip().startswith(old.removesuffix(", ...)")), (old, lines[at])
            del lines[at]
        elif old == "(among the imports)":
            lines.insert(first_import(lines), f"{new[0]}\n")
        else:
            was, now = (one.partition("(...)")[0] for one in (old, f"\n{indent}".join(new)))
            assert was in lines[at], (was, lines[at])
            lines[at] = lines[at].replace(was, now, 1)
        path.write_text("".join(lines))


def first_import(lines: list[str]) -> int:
    return next(at for at, line in enumerate(lines) if line.startswith(("import ", "from ")))


def move(root: Path, output: str) -> None:
    """Move what the command says has to move, and import it from there."""
    (names,) = re.findall(
        r"Before you delete utils/misc\.py, move: (.*?)\n(?!  )", output, re.DOTALL
    )
    assert {*re.findall(r"\w+", re.sub(r"\([^)]*\)", "", names))} == {
        *("CHUNK", "NestedTensor", "collate_fn", "accuracy", "mean_accuracy")
    }
    old = root / "utils" / "misc.py"
    text = old.read_text()
    at = text.index("class NestedTensor")
    (root / "utils" / "batches.py").write_text(f"import allranks\nimport torch\n\n\n{text[at:]}")
    old.unlink()
    for file in re.findall(r"(\w+\.py):\d+ \(", output):
        path = root / file
        path.write_text(path.read_text().replace("import utils.misc as", "import utils.batches as"))


def results(output: str) -> list[str]:
    return re.findall(r"RESULT .*", output)


def run(command: list[str], cwd: Path, **environ: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=env,
    )


def ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[str]]:
    """The numbers of the project as it was, with its own set-up, on so many ranks."""
    return {ranks: before(ranks, tmp_path_factory.mktemp("before")) for ranks in (1, 2)}


def before(ranks: int, out: Path) -> list[str]:
    """In a world of one without a launcher's variables: with them its samples are shuffled."""
    options = ["main.py", "--output_dir", str(out), "--dist_url", f"file://{out}/store"]
    each = [
        run(options, PROJECT, RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
        if ranks > 1
        else run(options, PROJECT)
        for rank in range(ranks)
    ]
    first, *others = [results(ended(one)) for one in each]
    assert len(first) == 4
    assert not any(others)
    return first


def after(ranks: int, root: Path, out: Path) -> list[str]:
    """The numbers of the project that uses allranks."""
    out.mkdir()
    command = ["-m", "allranks", "run", "-n", str(ranks), "main.py", "--output_dir", str(out)]
    return results(ended(run(command, root)))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project") / "root"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("__pycache__"))
    output = migrate(".", cwd=root)
    follow(root, output)
    move(root, output)
    return root


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_project_runs_without_its_helpers_and_gives_its_numbers(
    migrated: Path, theirs: dict[int, list[str]], tmp_path: Path, ranks: int
) -> None:
    assert not (migrated / "utils" / "misc.py").exists()
    assert after(ranks, migrated, tmp_path / "after") == theirs[ranks]


def test_nothing_is_left_to_say_of_the_migrated_project(migrated: Path) -> None:
    assert migrate(".", cwd=migrated) == "No function about ranks in 4 files.\n"


def test_the_patch_of_the_project_gives_its_numbers_too(
    theirs: dict[int, list[str]], tmp_path: Path
) -> None:
    """With its callers as they are."""
    root = tmp_path / "root"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("__pycache__"))
    patch = migrate("--diff", "utils/misc.py", cwd=root)
    done = subprocess.run(
        ["git", "apply", "-"], input=patch, text=True, capture_output=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    text = (root / "utils" / "misc.py").read_text()
    assert "SmoothedValue = allranks.meters.SmoothedValue\n" in text
    assert "synchronize_between_processes" not in text
    assert after(2, root, tmp_path / "after") == theirs[2]
