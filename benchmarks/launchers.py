"""Every launcher and geometry of the cluster tests: what allranks and its peers make of it.

Real launchers, on hosts that are made for it (root on Debian; `make test-cluster` installs them).

    python benchmarks/launchers.py
    python benchmarks/launchers.py --only slurm
    python benchmarks/launchers.py --markdown docs/launchers.md && make pages
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from startup_tables import Grid, machine, put_into

sys.path.append(str(Path(__file__).parents[1] / "tests" / "cluster"))

from geometries import GEOMETRIES, Geometry, Lab
from hosts import all_ended, network, numbered
from jobs import PROBE, reports
from mpi import mpi
from slurm_cluster import slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = str(Path(__file__).with_name("launchers_worker.py"))
PROGRAMS = {
    "allranks": PROBE,
    "torch, `env://`": (WORKER, "torch"),
    "Lightning Fabric": (WORKER, "fabric"),
    "Accelerate": (WORKER, "accelerate"),
}
DEADLINE = 25.0
"""Seconds after which a job is ended."""

LONGEST = 110

ERROR = re.compile(r"^(?:\[rank\d+\]: )?(?:[\w.]+\.)?(\w+(?:Error|Exception): .*)$", re.MULTILINE)


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Four hosts, with Slurm and both MPIs."""
    with contextlib.ExitStack() as stack:
        bases = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(3)]
        net = stack.enter_context(network(bases[0], numbered(4)))
        running = stack.enter_context(slurm(bases[1], net))
        yield Lab(net, running, stack.enter_context(mpi(bases[2], net)))


def cell(there: Lab, geometry: Geometry, script: tuple[str, ...]) -> str:
    """How a program fares in one place: the seconds to its first collective, or what is wrong."""
    began = time.time()
    try:
        out = "".join(each.out for each in all_ended(geometry.start(there, script), DEADLINE))
    except TimeoutError as error:
        return f"does not end: {complaint(str(error))}"
    told = reports(out)
    count = len(geometry.hosts)
    sizes = [report["world_size"] for report in told]
    if sizes == [1] * count and count > 1:
        return f"wrong: {count} worlds of one"
    if len(told) < count:
        return complaint(out)
    right = [(rank, count, count * (count + 1) // 2) for rank in range(count)]
    if [(each["rank"], each["world_size"], each["total"]) for each in told] != right:
        return f"wrong: ranks {[each['rank'] for each in told]} of {sizes}"
    return f"{max(each['at'] for each in told) - began:.1f} s"


def complaint(out: str) -> str:
    """The error that tells most, in short."""
    found = ERROR.findall(out) or ["nothing is said"]
    text = " ".join(found[0].split()).replace("|", "/")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def main() -> None:
    """Try all, print the table, and write it to the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="just launchers and geometries with this text")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the page with the table")
    options = parser.parse_args()
    places = [geometry for geometry in GEOMETRIES if options.only in str(geometry)]
    with lab() as there:
        rows = [
            (
                geometry.launcher,
                geometry.name,
                *(cell(there, geometry, script) for script in PROGRAMS.values()),
            )
            for geometry in track(places, "launchers", transient=True)
        ]
    grid = Grid("", ("launcher", "geometry", *PROGRAMS), tuple(rows))
    Console(width=200).print(grid.rich())
    if options.markdown:
        peers = ", ".join(f"{name} {version(name)}" for name in ("lightning-fabric", "accelerate"))
        method = f"Measured on {machine()}, {peers}; gloo."
        put_into(options.markdown, grid, "benchmarks/launchers.py", method)
    sys.exit("\n".join(" ".join(row[:3]) for row in rows if not row[2].endswith(" s")) or None)


if __name__ == "__main__":
    main()
