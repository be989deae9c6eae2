"""The site builds without a warning, its links lead somewhere, and its figures were measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from blocks import PAGES, ROOT
from markdown_it import MarkdownIt
from outputs import matches

import allranks
import charts
import terminal
from harness import PATIENCE
from markdown_table import rows_of

README = (ROOT / "README.md").read_text()

NO_FAULT = "nothing; the job goes on"
RANK_2 = r"[Rr]anks? 2|did not come .*: 2\."
"""How a message names the rank that a fault befalls."""


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    strict = ("--fail-on-warning", "--keep-going", "--quiet")
    doctrees = ("--doctree-dir", str(tmp_path / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, *doctrees, str(ROOT / "docs"), str(site)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    api = (site / "api.html").read_text()
    assert not {name for name in allranks.__all__ if not name.startswith("_")} - names_on(api)


def names_on(page: str) -> set[str]:
    """The names of allranks that a page of the site explains, and modules by their members."""
    found = re.findall(r'id="allranks\.(\w+)', page)
    return {*found, *re.findall(r'id="module-allranks\.(\w+)', page)}


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def links_of(page: Path) -> list[str]:
    """The links and pictures of a page."""
    lines = MarkdownIt().enable("table").parse(page.read_text())
    parts = [part for line in lines for part in line.children or []]
    found = [part.attrs.get("href") or part.attrs.get("src") for part in parts]
    return [str(link) for link in found if link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        if ":" in link:  # Of another site.
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{page}: {link}"


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.splitlines()) <= 120


def test_the_picture_is_of_a_real_run() -> None:
    drawn = (ROOT / "docs" / "pictures" / "failure.svg").read_text()
    anew = terminal.drawn(terminal.COMMAND, terminal.shown(terminal.COMMAND))
    # Rank 0 may be ended before its last line, and others may have heard of the failure.
    shown, told = (words_of(one).rpartition("allranks: ")[2] for one in (drawn, anew))
    assert matches(shown, told)


@pytest.mark.parametrize("name", charts.CHARTS)
def test_a_chart_shows_the_table_of_its_page(name: str, tmp_path: Path) -> None:
    charts.draw(name, tmp_path / "chart.svg")
    drawn, anew = (ROOT / "docs" / "pictures" / f"{name}.svg", tmp_path / "chart.svg")
    assert words_of(drawn.read_text()) == words_of(anew.read_text())
    assert shapes_of(drawn.read_text()) == shapes_of(anew.read_text())


def shapes_of(picture: str) -> list[str]:
    """The lines and bars of a picture."""
    paths = [one for one in ET.fromstring(picture).iter() if one.tag.endswith("}path")]
    return [" ".join(one.attrib.get("d", "").split()) for one in paths]


def words_of(picture: str) -> str:
    """What is written in a picture."""
    texts = [one for one in ET.fromstring(picture).iter() if one.tag.endswith("}text")]
    return " ".join(one.text or "" for one in texts).replace("\xa0", " ")


def below(page: str, head: str) -> list[tuple[str, ...]]:
    """The rows of a page's table whose head begins so."""
    return rows_of((ROOT / "docs" / page).read_text(), head)[1:]


def told(pattern: str) -> list[int]:
    """The numbers that the README tells."""
    found = re.search(pattern, README, re.DOTALL)
    assert found
    return list(map(int, found.groups()))


def test_the_readme_tells_how_many_geometries_come_up() -> None:
    rows = below("launchers.md", "| launcher | geometry |")
    came_up = [sum(bool(re.fullmatch(r"[\d.]+ s", row[n])) for row in rows) for n in (2, 5, 3)]
    counts = r"In (\d+) geometries .* comes up in (\d+), Accelerate in (\d+), plain torch in (\d+)"
    assert told(counts) == [len(rows), *came_up]


def test_the_readme_tells_how_many_faults_are_named() -> None:
    faults = [row for row in below("failures.md", "| fault |") if row[3] != NO_FAULT]
    named = [sum(bool(re.search(RANK_2, row[n])) for row in faults) for n in (3, 1)]
    counts = r"Of (\d+) faults .* names the rank in (\d+), .*plain torch names it in (\d+)"
    assert told(counts) == [len(faults), *named]
