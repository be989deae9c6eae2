"""``allranks.launch`` in a Jupyter notebook, with a real kernel."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from harness import PATIENCE
from torch_versions import without_chatter

CELLS = (
    "import torch, allranks\nfactor = 3",
    "class Thing:\n    def __init__(self, rank): self.rank = rank",
    """
def work():
    with allranks.session(cpu=True) as world:
        print("hello")
        return Thing(allranks.all_reduce(factor * world.rank))
""",
    "results = allranks.launch(work, ranks=2, fold=False)\n[thing.rank for thing in results]",
    "[thing.rank for thing in allranks.launch(work, ranks=3)]",
    """
try:
    allranks.launch(lambda: 1 / 0, ranks=2)
except ZeroDivisionError as error:
    print("raised", error)
""",
)


# The kernel's own libraries warn of what is none of ours.
@pytest.mark.filterwarnings("default")
def test_functions_of_cells_are_launched_and_their_output_is_shown() -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute()
    *_, first, second, third = notebook.cells
    written = "".join(out.text for out in first.outputs if out.output_type == "stream")
    assert sorted(without_chatter(written).splitlines()) == ["0│ hello", "1│ hello"]
    assert first.outputs[-1].data["text/plain"] == "[3, 3]"
    assert second.outputs[-1].data["text/plain"] == "[9, 9, 9]"
    assert "raised division by zero" in third.outputs[-1].text
