"""The launchers' pages say what the tests of this directory see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import words
from geometries import GEOMETRIES

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "launchers.md").read_text()
OF_LAUNCHERS = [page.read_text() for page in (REPOSITORY / "docs" / "launchers").glob("*.md")]


def rows(text: str) -> list[tuple[str, ...]]:
    """The cells of the table of launchers and geometries."""
    _, _, table = text.partition("| launcher | geometry |")
    lines = [line for line in table.split("\n\n")[0].splitlines()[2:] if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


@pytest.mark.parametrize("said", words.ALL)
def test_what_is_said_is_quoted(said) -> None:
    assert any(said in " ".join(page.split()) for page in (PAGE, *OF_LAUNCHERS))


def test_every_geometry_has_a_row_in_which_ranks_come_up() -> None:
    told = {row[:2]: row[2] for row in rows(PAGE)}
    assert told.keys() == {(geometry.launcher, geometry.name) for geometry in GEOMETRIES}
    for place, ours in told.items():
        assert re.fullmatch(r"\d+\.\d s", ours), place
