"""Says how many GPUs there are, and which tests that leaves; builds the stand-in once."""

from __future__ import annotations

import pytest

import gpus
import stand_in


@pytest.fixture(autouse=True, scope="session")
def _built() -> None:
    if stand_in.why_not() is None:
        stand_in.build()
