"""Every test begins with an environment that no launcher has set."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

import allranks
from allranks._system import numa
from harness import clean_environ, unlocked_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from machines import Machine


pytest.register_assert_rewrite("expectations", "model")


@pytest.fixture(autouse=True)
def _clean_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """No launcher's variables before a test, and no process group after it."""
    if request.node.get_closest_marker("ranks"):
        yield  # The plugin has launched it.
        return
    before = dict(os.environ)
    clean_environ()
    yield
    allranks.cleanup()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Machine], None]:
    """Takes Linux's word for another machine's."""
    folders = (tmp_path / f"sys{number}" for number in count())
    return lambda machine: monkeypatch.setattr(numa, "SYS", machine.written(next(folders)))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """A group as a program has it, where the plugin's own verifies bare tensors too."""
    with allranks.session(cpu=True, timeout=timedelta(seconds=30)):
        yield


@pytest.fixture
def _swept() -> Iterator[None]:
    """Takes away what a killed parent leaves, as the next job would after a minute."""
    before = unlocked_directories()
    yield
    for left in unlocked_directories() - before:
        shutil.rmtree(left)
