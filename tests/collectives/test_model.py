"""Random programs of collectives, on real ranks, against a model in one process.

A program is a list of steps; each step's data follow from its seed and the rank, so that the model
knows what every rank gives. A rank that aborts, or differs from the model, fails the program.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allranks
from harness import PATIENCE
from model import check, expected, steps
from programs import Step, run


@pytest.mark.parametrize(
    ("size", "sockets"), [(1, "1"), (2, "1"), (3, "1"), (4, "1"), (2, "0"), (4, "0")]
)
def test_programs_do_what_the_model_says(size, sockets, monkeypatch) -> None:
    """Whether headers go over the host's sockets or over gloo."""
    monkeypatch.setenv("ALLRANKS_HOST_SOCKETS", sockets)

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(steps(size), min_size=4, max_size=10))
    def test(program: list[Step]) -> None:
        results = allranks.launch(run, (program, size), ranks=size, timeout=PATIENCE)
        for rank, returned in enumerate(results):
            for step, got in zip(program, returned, strict=True):
                check(got, expected(step, rank))

    test()
