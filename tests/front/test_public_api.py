"""What is public is written down: who changes it sees that, and says it in the changelog."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

import allranks
import public_api
from allranks import _cli

PAGE = (Path(__file__).parents[2] / "docs" / "public-api.md").read_text()


def test_the_public_api_is_the_one_that_is_written_down() -> None:
    written = public_api.FILE.read_text()
    found = public_api.text()
    if found != written:
        change = "\n".join(
            difflib.unified_diff(written.split("\n"), found.split("\n"), lineterm="")
        )
        pytest.fail(
            f"the public API has changed:\n{change}\nIf that is meant, run `{public_api.COMMAND}`, "
            "and say it in CHANGELOG.md; docs/public-api.md tells how a name is deprecated."
        )


@pytest.mark.parametrize("name", sorted({*allranks.__all__} - {*allranks._MODULES}))
def test_each_name_of_the_root_is_in_it(name: str) -> None:
    section = public_api.FILE.read_text().partition("[allranks.autograd]")[0]
    starts = {line.split("(")[0].split(" =")[0].split()[-1] for line in section.split("\n") if line}
    assert name in starts


@pytest.mark.parametrize("name", _cli.main.commands)
def test_the_page_tells_the_exit_codes_of_each_command(name: str) -> None:
    assert f"| `allranks {name}` |" in PAGE
