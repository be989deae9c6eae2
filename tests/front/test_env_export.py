"""What `allranks env --export` gives a shell: all variables, or nothing that starts a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = f"{sys.executable} -m allranks._cli env --export"
CRASHING = (
    f"{sys.executable} -c \"import sys; sys.argv[1:] = ['env', '--export']; "
    "from allranks import _cli; "
    '_cli.detect = lambda _: 1 / 0; _cli.main()"'
)
INTERRUPTED = CRASHING.replace("1 / 0", "exec('raise KeyboardInterrupt')")

KNOWN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h1", "MASTER_PORT": "7"}
CLOSED = 'v=$({}) && eval "$v" && echo STARTED'
LINES = 'v=$({}) || exit 1\neval "$v"\necho STARTED'
SHORT = 'eval "$({})" && echo STARTED'

SHELLS = [shell for shell in ("sh", "bash", "dash") if shutil.which(shell)]
FORMS = [CLOSED, LINES, SHORT]
FAULTS = {
    "half an environment": (COMMAND, {"RANK": "1"}),
    "a rank 0 that nobody knows": (
        COMMAND,
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"},
    ),
    "an option that is misspelt": (f"{COMMAND} --jsn", {}),
    "a command that is misspelt": (COMMAND.replace(" env ", " evn "), {}),
    "a crash": (CRASHING, {}),
    "Ctrl-C": (INTERRUPTED, {}),
}


def started(shell: str, options: str, script: str, **environ: str) -> bool:
    done = subprocess.run(
        [shell, f"-c{options}", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )
    return "STARTED" in done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_what_is_known_starts_the_program(form: str) -> None:
    assert started("sh", "e", form.format(COMMAND), **KNOWN)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_an_error_starts_nothing(shell: str, form: str, fault: str) -> None:
    command, environ = FAULTS[fault]
    assert not started(shell, "", form.format(command), **environ)


@pytest.mark.parametrize("options", ["", "e"])
@pytest.mark.parametrize("form", [CLOSED, LINES])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_that_is_missing_starts_nothing(shell: str, form: str, options: str) -> None:
    """In the two forms that are documented as safe."""
    assert not started(shell, options, form.format("allrnks env --export"))


@pytest.mark.parametrize("page", ["docs/launchers.md", "src/allranks/_cli.py"])
def test_the_safe_form_is_the_one_that_is_documented(page: str) -> None:
    text = (Path(__file__).parents[2] / page).read_text()
    assert 'v=$(allranks env --export) && eval "$v" && exec python train.py' in text
