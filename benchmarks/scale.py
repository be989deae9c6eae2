"""How allranks behaves from 8 ranks to 16,384: real ranks, then simulated ones with the real code.

    python benchmarks/scale.py
    python benchmarks/scale.py --real 8 32 --simulated 1024 --json
    python benchmarks/scale.py --markdown docs/scale.md

Each part is a program of its own, which can be asked for alone: ``scale_real.py``,
``scale_roll_call.py``, ``scale_watch.py``. ``scale_gloo.py`` is what torch's own group costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from scale_laws import estimates
from scale_page import grids, page, picture
from startup_tables import machine

HERE = Path(__file__).parent

MUCH = 16 * 2**30
"""Bytes of memory that are free where 256 real ranks are run, too: they take 5 GiB."""

SIMULATED = [1024, 4096, 16384]


def real_sizes() -> list[int]:
    """As many real ranks as this machine surely holds."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return [8, 32, 64, 128, 256] if free > MUCH else [8, 32, 64, 128]


def measured(part: str, size: int, *more: str) -> dict[str, Any]:
    """What a part says of one size."""
    done = subprocess.run(
        [sys.executable, str(HERE / f"scale_{part}.py"), "--json", "--ranks", str(size), *more],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (world,) = json.loads(done.stdout)
    return dict(world)


def everything(real: list[int], simulated: list[int], runs: int) -> dict[str, list[dict[str, Any]]]:
    """All parts, one size at a time: two at once would measure each other."""
    steps = [("real", size) for size in real]
    steps += [(part, size) for part in ("roll_call", "watch") for size in simulated]
    found: dict[str, list[dict[str, Any]]] = {"real": [], "roll_call": [], "watch": []}
    for part, size in track(steps, "scale", console=Console(stderr=True), transient=True):
        more = ("--runs", str(runs)) if part == "roll_call" else ()
        found[part].append(measured(part, size, *more))
    return found


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--real", type=int, nargs="*", default=real_sizes(), help="numbers of real ranks"
    )
    parser.add_argument("--simulated", type=int, nargs="*", default=SIMULATED)
    parser.add_argument("--runs", type=int, default=5, help="of each roll call")
    parser.add_argument("--json", action="store_true", help="print JSON, and no tables")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page here too")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="of an earlier run")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    found = (
        json.loads(asked.from_json.read_text())
        if asked.from_json
        else {
            "machine": f"{machine()}; load when it began: {load:.1f}",
            **everything(asked.real, asked.simulated, asked.runs),
        }
    )
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        console = Console()
        console.print(found["machine"])
        for grid in grids(found):
            console.print(grid.rich())
        console.print(estimates(found).rich())
    if asked.markdown:
        drawn = asked.markdown.with_suffix(".svg")
        picture(found, drawn)
        asked.markdown.write_text(page(found, drawn.name))


if __name__ == "__main__":
    main()
