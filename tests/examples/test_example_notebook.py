"""The notebook, run by a real kernel: each cell's outputs are those that are stored with it."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from example_runs import EXAMPLES
from harness import PATIENCE
from torch_versions import without_chatter


def outputs(cell) -> list[str]:
    """What a reader sees under a cell."""
    texts = [
        out.text if out.output_type == "stream" else out.data["text/plain"] for out in cell.outputs
    ]
    return [text for text in map(without_chatter, texts) if text]


# The kernel's own libraries warn of what is none of ours.
@pytest.mark.filterwarnings("default")
def test_the_stored_outputs_are_those_of_a_run() -> None:
    stored = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(stored)
    fresh = nbformat.from_dict(stored)
    cells = [cell for cell in fresh.cells if cell.cell_type == "code"]
    before = [outputs(cell) for cell in cells]
    for cell in cells:
        cell.outputs = []
    NotebookClient(fresh, timeout=PATIENCE, kernel_name="python3").execute()
    assert [outputs(cell) for cell in cells] == before
    assert sum(map(bool, before)) == 3
