"""In what versions of torch differ: what they add of their own, and what they cannot do."""

from __future__ import annotations

import re
import tempfile

import pytest

from allranks._watch import flight_recorder

records_gloo = pytest.mark.skipif(
    flight_recorder.why_gloo_is_unseen() is not None,
    reason="this version of torch does not record gloo's calls",
)
"""For tests of what is said of calls that are torch's own."""

GLOO = re.compile(r"^([\d, -]+[│|] )?\[Gloo\] Rank \d+ is connected to .*\n?", re.MULTILINE)
"""Gloo's line for each group that it connects, on standard output: torch 2.6 to 2.9."""


def without_chatter(text: str) -> str:
    """The text as the program wrote it."""
    return GLOO.sub("", text)


def without_torchs_directory(path: list[str]) -> list[str]:
    """A module path without the directory that some versions of torch make as it is imported."""
    made = re.compile(rf"{re.escape(tempfile.gettempdir())}/tmp[a-z0-9_]{{8}}")
    return [one for one in path if not made.fullmatch(one)]
