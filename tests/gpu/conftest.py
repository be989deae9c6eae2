"""Builds the stand-in once; with ``-m gpu`` says how many GPUs there are, and what that leaves."""

from __future__ import annotations

import pytest

import gpus
import stand_in


@pytest.fixture(autouse=True, scope="session")
def _built() -> None:
    if stand_in.why_not() is None:
        stand_in.build()


def pytest_terminal_summary(terminalreporter, config) -> None:
    """The skipped tests are listed, with their reasons, by -rs."""
    if "gpu" not in config.option.markexpr:
        return
    kinds = {kind: _of_gpu(terminalreporter.stats.get(kind, [])) for kind in ("passed", "skipped")}
    kinds["failed"] = _of_gpu(terminalreporter.stats.get("failed", []))
    ran = [*kinds["passed"], *kinds["failed"]]
    on_stand_in = [name for name in ran if "stand-in" in name]
    waiting = [name for name in kinds["skipped"] if "stand-in" not in name]
    names = ", ".join(gpu.name for gpu in gpus.seen())
    terminalreporter.section("GPUs")
    terminalreporter.line(
        f"{len(gpus.seen())} GPUs{f' ({names})' * bool(names)}: {len(waiting)} tests need "
        f"{'more' if names else 'one'}; {len(on_stand_in)} ran on the stand-in, "
        f"{len(ran) - len(on_stand_in)} otherwise."
    )
    if why := stand_in.why_not():
        terminalreporter.line(f"There is no stand-in: {why}.")


def _of_gpu(reports) -> list[str]:
    return [r.nodeid for r in reports if "gpu" in getattr(r, "keywords", {})]
