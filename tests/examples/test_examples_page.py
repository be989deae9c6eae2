"""docs/examples.md: it lists every example, and its lines name files that there are."""

from __future__ import annotations

import re

from example_runs import EXAMPLES

PAGE = EXAMPLES.parent / "docs" / "examples.md"
TEXT = PAGE.read_text()


def test_every_example_is_listed() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.name[0] not in "._"}
    row = re.compile(r"^\| \[([\w.]+)\]\(\.\./examples/\1[^)]*\) \|", re.MULTILINE)
    assert {*row.findall(TEXT)} == names


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / link).exists(), link


def test_the_lines_start_what_is_there() -> None:
    paths = re.findall(r"examples/[\w./-]+\w", re.sub(r"\]\([^)]*\)", "", TEXT))
    assert len(paths) > 10
    for path in paths:
        assert (EXAMPLES.parent / path).exists(), path
