"""Every test begins with an environment that no launcher has set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import allranks
from harness import clean_environ

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean_world() -> Iterator[None]:
    """No launcher's variables before a test, and no process group after it."""
    before = dict(os.environ)
    clean_environ()
    yield
    allranks.cleanup()
    os.environ.clear()
    os.environ.update(before)
