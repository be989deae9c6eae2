"""``allranks dump`` on two hosts, and its page in a browser that has no network."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from geometries import C10D, PYTHON, TWO, torchrun
from jobs import WAITING
from test_status import LIMIT, end_all, stands

if TYPE_CHECKING:
    from geometries import Lab
    from hosts import Host

pytestmark = pytest.mark.timeout(300)

BROWSER = ("unshare", "--net", "chromium", "--headless", "--no-sandbox", "--disable-gpu")

MISSING, WAITS = (0xB9, 0x1C, 0x1C), (0xFF, 0xF7, 0xE0)
"""Colours of the page: of a rank that has not come to a call, and of a box of those who wait."""


def dumped(host: Host, place: Path) -> tuple[Path, dict[str, Any]]:
    """A dump made on a host, once the first three ranks wait."""
    end = time.monotonic() + LIMIT
    for turn in range(1000):
        directory = place / f"dump{turn}"
        host.run(PYTHON, "-m", "allranks", "dump", str(directory))
        if (directory / "job.json").exists():
            job = json.loads((directory / "job.json").read_text())
            job["rows"] = job.pop("ranks")
            if len(job["rows"]) == 4 and stands(job):
                return directory, job
        assert time.monotonic() < end, "the ranks never came to the call in which they wait"
    raise AssertionError


def screenshot(page: Path, picture: Path) -> np.ndarray:
    """What the browser shows, as rows of pixels."""
    made = [f"--screenshot={picture}", "--window-size=1300,1100", "--hide-scrollbars"]
    profile = f"--user-data-dir={picture.parent / 'profile'}"
    subprocess.run(
        [*BROWSER, profile, *made, page.as_uri()], check=True, capture_output=True, timeout=120
    )
    return np.rint(imread(picture)[..., :3] * 255).astype(int)


def test_a_browser_shows_who_waits_for_whom(lab: Lab, tmp_path: Path) -> None:
    running = torchrun(2, *C10D)(lab, (*WAITING, "sleep"))
    job: dict[str, Any] = {"rows": []}
    try:
        directory, job = dumped(lab.net[0], tmp_path)
    finally:
        end_all(lab.net.hosts, [job])
        for one in running:
            one.cut_short()
    assert [row["host"] for row in job["rows"]] == list(TWO)
    told = [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert all(one["detail"]["calls"] for one in told)
    pixels = screenshot(directory / "index.html", tmp_path / "page.png")
    for colour in (MISSING, WAITS):
        assert (pixels == colour).all(axis=-1).sum() > 50
