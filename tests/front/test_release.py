"""What is told of a release in several places is the same in all of them, and well-formed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import allranks

if sys.version_info < (3, 11):
    pytest.skip("the standard library reads no TOML", allow_module_level=True)
import tomllib

REPOSITORY = Path(__file__).parents[2]
GITHUB = REPOSITORY / ".github"

if not GITHUB.exists():
    pytest.skip("an sdist has nothing of CI", allow_module_level=True)

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
COMPATIBILITY = (REPOSITORY / "docs" / "compatibility.md").read_text()


def workflow(name: str) -> Any:
    return yaml.safe_load((GITHUB / "workflows" / name).read_text())


def matrix() -> set[tuple[str, str]]:
    """The Pythons and torches with which CI runs the tests."""
    rows = workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    return {(row["python"], row["torch"]) for row in rows}


def found_true() -> set[tuple[str, str]]:
    """Those of docs/compatibility.md: one Python with each torch of the table, and others."""
    section = COMPATIBILITY.partition("## Tested with")[2].partition("\n## ")[0]
    (python,) = re.findall(r"^Python (\d\.\d+) on Linux", section, re.MULTILINE)
    torches = re.findall(r"^\| (\d+\.\d+\.\d+) \|(?!.*not supported)", section, re.MULTILINE)
    others = re.findall(r"Python (\d\.\d+)\.\d+ with torch (\d+\.\d+\.\d+)", section)
    return {(python, torch) for torch in torches} | set(others)


def made_by_ci() -> set[str]:
    """What CI has make do."""
    jobs = workflow("ci.yml")["jobs"].values()
    runs = (step.get("run", "") for job in jobs for step in job["steps"])
    return {target for run in runs for target in re.findall(r"^make (\S+)", run)}


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"]
    assert CITATION["version"] == allranks.__version__


def test_the_citation_says_what_the_project_says() -> None:
    assert CITATION["title"].startswith(f"{PROJECT['name']}:")
    assert CITATION["license"] == PROJECT["license"]


def test_ci_runs_what_the_page_says_was_tested() -> None:
    assert len(found_true()) > 5
    assert matrix() == found_true()


def test_ci_and_the_index_know_the_same_pythons() -> None:
    kind = "Programming Language :: Python :: 3."
    told = {one.rpartition(" ")[2] for one in PROJECT["classifiers"] if one.startswith(kind)}
    assert told == {python for python, _ in matrix()}


def test_the_page_of_what_is_public_says_what_pip_says() -> None:
    page = (REPOSITORY / "docs" / "public-api.md").read_text()
    torch = next(one for one in PROJECT["dependencies"] if one.startswith("torch"))
    pythons = ", ".join(sorted({python for python, _ in matrix()}))
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert re.search(rf"\n\| Python \| {lowest} \|.*\| {pythons} \|\n", page)
    assert f"\n| torch | {torch.removeprefix('torch>=')} |" in page


def test_ci_knows_the_torch_of_this_repository() -> None:
    text = (REPOSITORY / "constraints.txt").read_text()
    (pinned,) = re.findall(r"^torch==(\S+)", text, re.MULTILINE)
    assert pinned in {torch for _, torch in matrix()}


def test_the_workflow_runs_what_the_script_of_ci_runs() -> None:
    """The same commands as ``.ci/run``; ``make test`` with several torches."""
    script = (REPOSITORY / ".ci" / "run").read_text()
    wanted = set(re.findall(r"^make (\S+)", script, re.MULTILINE)) - {"test"} | {"test-torch"}
    assert wanted <= made_by_ci()


def test_make_knows_all_that_ci_makes() -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert made_by_ci() <= set(targets)


def test_a_release_is_published_without_a_token_and_after_all_tests() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["publish"]["needs"] == "ci"
    assert "secrets" not in (GITHUB / "workflows" / "release.yml").read_text()


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[1-9]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("citation-file-format", "CITATION.cff"),
    ],
)
def test_files_for_others_programs_are_as_their_schemas_want_them(schema, pattern) -> None:
    pytest.importorskip("check_jsonschema")
    files = [str(path) for path in REPOSITORY.glob(pattern)]
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_issues_ask_for_what_the_commands_tell() -> None:
    texts = {path.name: path.read_text() for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
    assert "allranks env" in texts["1-bug.yml"]
    assert "allranks doctor" in texts["1-bug.yml"]
    assert "allranks dump" in texts["2-hang.yml"]
    assert "allranks env --json" in texts["3-launcher.yml"]
