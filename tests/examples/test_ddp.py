"""The example of DDP: stopped and started again, it comes to the numbers of a run in one piece."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

import allranks
import ddp
from harness import PATIENCE

STEPS = 50
"""In an epoch, on two ranks."""


@pytest.fixture
def run(monkeypatch, capsys):
    """Starts the program on this rank; its exit code, and what it wrote."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(*options: object) -> tuple[object, list[str]]:
        monkeypatch.setattr(sys, "argv", ["ddp.py", *map(str, options)])
        with pytest.raises(SystemExit) as left:
            ddp.main()
        return left.value.code, capsys.readouterr().out.splitlines()

    return run


@contextmanager
def terminated_after(steps: int):
    """Rank 1 alone gets SIGTERM in one step."""
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == steps and allranks.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handle = register_optimizer_step_post_hook(count)
    yield
    handle.remove()


@pytest.mark.ranks(2, setup=False, timeout=PATIENCE)
@pytest.mark.parametrize("where", [1, STEPS + 17, 2 * STEPS])
def test_a_stopped_training_goes_on_to_the_same_numbers(tmp_path: Path, run, where: int) -> None:
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    options = ("--epochs", 4, "--patience", 9, "--checkpoint")
    at_once = run(*options, whole)
    with terminated_after(where):
        code, before = run(*options, parts)
    assert "start it again" in str(code)
    assert torch.load(parts)["sampler"]["consumed"] == ((where - 1) % STEPS + 1) * 40
    code, after = run(*options, parts)
    assert (code, before + after) == at_once
    mine, theirs = torch.load(parts), torch.load(whole)
    assert mine["history"] == theirs["history"]
    assert all(torch.equal(mine["network"][name], theirs["network"][name]) for name in NAMES)


NAMES = ("0.weight", "0.bias", "3.weight", "3.bias")


@pytest.mark.ranks(1, 2, 4)
def test_each_test_sample_counts_once() -> None:
    _, data = ddp.load_data()
    classes = torch.nn.Linear(16, 4)
    allranks.sync_module(classes)
    rows, labels = data.tensors
    right = (classes(rows).argmax(1) == labels).double().mean().item()
    found = ddp.evaluate(classes, data, torch.device("cpu"))
    assert found == (right if allranks.is_master() else None)


@pytest.mark.ranks(2)
def test_an_end_that_rank_0_alone_sees_is_the_end_for_all() -> None:
    history = [0.5, 0.9, 0.8, 0.9, 0.7] if allranks.is_master() else []
    assert not ddp.is_over(history, patience=4)
    assert ddp.is_over(history, patience=3)


@pytest.mark.ranks(2, setup=False, timeout=PATIENCE)
def test_no_better_epoch_ends_the_training_for_good(tmp_path: Path, run) -> None:
    options = ("--epochs", 100, "--patience", 1, "--checkpoint", tmp_path / "ddp.pt")
    code, told = run(*options)
    assert code == 0
    epochs = torch.load(tmp_path / "ddp.pt")["sampler"]["epoch"]
    assert epochs < 100
    assert len(told) == (epochs if allranks.is_master() else 0)
    assert run(*options) == (0, [])


@pytest.mark.ranks(2, setup=False, timeout=PATIENCE)
def test_more_ranks_may_go_on(tmp_path: Path, run) -> None:
    two, one = tmp_path / "two.pt", tmp_path / "one.pt"
    assert run("--epochs", 1, "--checkpoint", two)[0] == 0
    if allranks.is_master():  # As one rank leaves it.
        checkpoint = torch.load(two)
        torch.save({**checkpoint, "random": checkpoint["random"][:1]}, one)
    assert run("--epochs", 2, "--checkpoint", one)[0] == 0
    assert len(torch.load(one)["history"]) == 2
