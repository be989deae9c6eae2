"""The launchers' pages say what the tests of this directory see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import words
from geometries import GEOMETRIES
from markdown_table import rows_of

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "launchers.md").read_text()
OF_LAUNCHERS = [page.read_text() for page in (REPOSITORY / "docs" / "launchers").glob("*.md")]


@pytest.mark.parametrize("said", words.ALL)
def test_what_is_said_is_quoted(said) -> None:
    assert any(said in " ".join(page.split()) for page in (PAGE, *OF_LAUNCHERS))


def test_every_geometry_has_a_row_in_which_ranks_come_up() -> None:
    told = {row[:2]: row[2] for row in rows_of(PAGE, "| launcher | geometry |")[1:]}
    assert told.keys() == {(geometry.launcher, geometry.name) for geometry in GEOMETRIES}
    for place, ours in told.items():
        assert re.fullmatch(r"\d+\.\d s", ours), place
