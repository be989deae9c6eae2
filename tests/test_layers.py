"""Imports point down the list of layers, and siblings do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import allranks

PACKAGE = Path(allranks.__file__).parent

LAYERS = (
    ("_printable",),
    (
        "errors",
        "_elf",
        "_hostlist",
        "_mpi_letter",
        "_huge_pages",
        "_interpreter",
        "_peer_memory",
        "_private_directory",
        "_processes",
        "_shown",
        "_sockets",
        "_stacks",
        "_told",
        "_tensors",
        "_outside",
        "_release",
        "_trusted_file",
        "_pytest_kept",
        "_pytest_worker",
        "_remembered",
        "_compiled",
    ),
    ("_ports", "_parking", "_trees", "_terminal"),
    (
        "_launchers",
        "_waiting",
        "_init_method",
        "_environ",
        "_settings",
        "_signals",
        "_numbers",
        "_local",
        "_joined",
        "_buffers",
        "_pytest_marker",
        "_flight",
        "_alarm",
        "_record",
    ),
    (
        "_world",
        "_devices",
        "_rollcall",
        "_board",
        "_private_store",
        "_torchs_groups",
        "_bulletin",
        "_pytest_examples",
        "_rank",
    ),
    (
        "_bind",
        "_mpi",
        "_plan",
        "_groups",
        "_fake_world",
        "_pytest_report",
        "_diagnosis",
        "_evidence",
        "_neighbours",
        "_template",
    ),
    (
        "_rendezvous",
        "_messages",
        "_call",
        "_progress",
        "_inquiry",
        "_pytest_heard",
        "_pytest_phases",
        "_pytest_told",
        "_warden",
        "_unconnected",
    ),
    ("_gloo_channel", "_host_channel", "_order", "_lookout", "_run"),
    ("_headers",),
    ("_transfers",),
    ("_objects", "_in_place", "_launch", "_watch"),
    ("_collectives", "_reduce", "_bring_up"),
    ("_lifecycle",),
    ("_ranks", "_subgroups", "_together"),
    ("__init__",),
    ("_cli", "distutils", "_pytest_item"),
    ("_pytest_session",),
    ("pytest_plugin",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "allranks":
            found |= {a.name if a.name in LEVEL else "__init__" for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allranks."):
            found.add(node.module.partition(".")[2])
        elif isinstance(node, ast.Import):
            found |= {
                a.name.partition(".")[2] or "__init__" for a in node.names if "allranks" in a.name
            }
    return found


def test_every_module_has_a_layer() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == LEVEL.keys()


@pytest.mark.parametrize("name", LEVEL)
def test_imports_point_down(name: str) -> None:
    for other in imported(PACKAGE / f"{name}.py"):
        assert LEVEL[other] < LEVEL[name], f"{name} imports {other}"


@pytest.mark.parametrize("name", LEVEL)
def test_a_file_stays_readable(name: str) -> None:
    assert len((PACKAGE / f"{name}.py").read_text().splitlines()) <= 460
