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
import terminal
from harness import PATIENCE

README = (ROOT / "README.md").read_text()


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
    command = terminal.COMMAND
    assert matches(words_of(drawn), words_of(terminal.drawn(command, terminal.shown(command))))


def words_of(picture: str) -> str:
    """What is written in a picture."""
    texts = [one for one in ET.fromstring(picture).iter() if one.tag.endswith("}text")]
    return " ".join(one.text or "" for one in texts).replace("\xa0", " ")


def test_the_readmes_figures_are_those_of_the_pages() -> None:
    table = (ROOT / "docs" / "launchers.md").read_text().partition("| launcher | geometry |")[2]
    rows = [line.strip("| ").split(" | ") for line in table.split("<!--")[0].splitlines()[2:]]
    came_up = [sum(bool(re.fullmatch(r"[\d.]+ s", row[n])) for row in rows) for n in (2, 3, 5)]
    told = re.search(
        r"in (\d+) geometries .* comes up in (\d+), Accelerate in (\d+), plain torch in (\d+)",
        README,
        re.DOTALL,
    )
    assert told
    ours, torchs, accelerates = came_up
    assert list(map(int, told.groups())) == [len(rows), ours, accelerates, torchs]
