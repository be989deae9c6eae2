"""Builds the stand-in once; with ``-m gpu`` says how many GPUs there are, and what that leaves."""

from __future__ import annotations

import pytest

import gpus
import stand_in
from allranks._system.words import counted


@pytest.fixture(autouse=True, scope="session")
def _built() -> None:
    if stand_in.why_not() is None:
        stand_in.build()


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Which tests are skipped, and why, is told by -rs."""
    if "gpu" not in config.option.markexpr:
        return
    of = {kind: _names(terminalreporter, kind) for kind in ("passed", "failed", "skipped")}
    ran = of["passed"] + of["failed"]
    on_stand_in = sum("stand-in" in name for name in ran)
    waiting = sum("stand-in" not in name for name in of["skipped"])
    seen = [gpu.name for gpu in gpus.seen()]
    terminalreporter.section("GPUs")
    terminalreporter.line(
        f"{counted(len(seen), 'GPU')}: {', '.join(seen) or 'none'}. "
        f"{counted(waiting, 'test')} need {'more' if seen else 'one'}; {on_stand_in} ran on the "
        f"stand-in, {len(ran) - on_stand_in} otherwise."
    )
    if why := stand_in.why_not():
        terminalreporter.line(f"There is no stand-in: {why}.")


def _names(terminalreporter, kind: str) -> list[str]:
    """The tests with the marker that have ended so."""
    reports = terminalreporter.stats.get(kind, [])
    return [one.nodeid for one in reports if "gpu" in getattr(one, "keywords", {})]
