"""The example of FSDP2: its checkpoint is that of the same training in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fsdp2
from harness import PATIENCE

STEPS = 10


def in_one_process() -> dict[str, torch.Tensor]:
    """The same training on all rows, without FSDP and without any collective."""
    torch.manual_seed(0)
    model = fsdp2.build_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows, targets = fsdp2.load_data()
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(rows), targets).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.ranks(1, 2, setup=False, timeout=PATIENCE)
def test_the_checkpoint_is_that_of_one_process(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = tmp_path / "fsdp2.pt"
    monkeypatch.setattr("sys.argv", ["fsdp2.py", "--steps", str(STEPS), "--model", str(path)])
    fsdp2.main()
    saved = torch.load(path)
    expected = in_one_process()
    assert [*saved] == [*expected]
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
