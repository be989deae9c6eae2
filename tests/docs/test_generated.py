"""What is generated in the documentation is what `make pages` writes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import generate
import launcher_blocks
import settings_blocks
from allranks._launchers.detect import READERS
from allranks._process_group.settings import DEFAULT_TIMEOUT, Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

LAUNCHERS = {page.stem: page.read_text() for page in (DOCS / "launchers").glob("*.md")}
NO_LAUNCHERS = {"platforms"}
BEGUN = re.compile(r"^<!-- generated: ", re.MULTILINE)
ENDED = re.compile(r"^<!-- end -->$", re.MULTILINE)


def test_the_pages_are_what_is_generated() -> None:
    command = [sys.executable, str(DOCS / "scripts" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make pages`:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_every_block_has_its_end(page: Path) -> None:
    text = page.read_text()
    assert len(BEGUN.findall(text)) == len(ENDED.findall(text)) == len(generate.BLOCK.findall(text))


def test_another_text_is_told_and_not_written(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text("Before.\n\n<!-- generated: order -->\nolder\n<!-- end -->\n\nAfter.\n")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    assert ended.value.code == 1
    assert "docs/page.md is not what `make pages` writes" in capsys.readouterr().out
    assert "older" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    text = page.read_text()
    assert ended.value.code == 0
    assert text.startswith("Before.\n\n<!-- generated: order -->\n\nallranks, torchrun, ray, ")
    assert text.endswith("single.\n\n<!-- end -->\n\nAfter.\n")


def test_every_launcher_has_a_page_and_every_page_a_row() -> None:
    named = {
        name for text in LAUNCHERS.values() for name in re.findall(r"variables (\w+) -->", text)
    }
    files = {reader.read.__module__.rpartition(".")[2] for reader in READERS}
    assert named == files - {"single"}
    assert {*launcher_blocks.ORDER} == LAUNCHERS.keys() - NO_LAUNCHERS


def test_a_rank_of_a_recording_is_shown_as_the_command_shows_it() -> None:
    text = launcher_blocks.env("recorded", "slurm-srun-direct-2x2", "3")
    assert "srun 2 nodes x 2 tasks" in text
    assert re.search(r"rank +│ 3 ", text)
    assert "told by: SLURM_JOB_ID=2, SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=4\n" in text
    assert "They meet at `n1`, at the first free port of 13356 and 15 others" in text


def test_an_error_is_shown_where_ranks_cannot_meet() -> None:
    text = launcher_blocks.env("recorded", "mpi-openmpi-two-hosts", "0")
    assert "every rank says so:\n\n```text\nlauncher openmpi, 4 ranks: nothing says where" in text


def test_settings_have_their_defaults_and_variables() -> None:
    rows = {
        line.split(" | ")[0]: line.split(" | ")[1:4]
        for line in settings_blocks.settings().splitlines()
    }
    minutes = DEFAULT_TIMEOUT.total_seconds() / 60
    assert rows["| `timeout`"] == ["minutes, or a timedelta", f"{minutes:g}", ""]
    assert rows["| `check`"] == ['bool or "lines"', "`None`", "`ALLRANKS_CHECK`"]
    assert rows.keys() == {"| setting", "| ---", *(f"| `{name}`" for name in vars(Settings()))}


def test_the_docstring_of_setup_says_the_defaults_that_hold() -> None:
    for name, takes, _ in settings_blocks.SETTING.findall(settings_blocks.told_by_setup()):
        told = takes.partition("; default ")[2]
        assert told in ("", settings_blocks.default(name, takes)), name
