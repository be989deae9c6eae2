"""Draw what a terminal shows of a command, run for it: `make pictures`."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "pictures"
COMMAND = "allranks run -n 4 train.py"
WIDTH = 88


def shown(command: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command.split(),
        cwd=PICTURES,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b"".join(iter(lambda: _read(ours), b""))
    running.wait()
    os.close(ours)
    return text.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    """The next bytes; none when every program has closed the terminal."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux tells the end so.
        return b""


def drawn(command: str, output: str) -> str:
    """A picture of the command and its output, as SVG."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    console.print(Text.from_ansi(output.rstrip("\n")))
    return console.export_svg(title="one of four ranks fails", theme=MONOKAI, unique_id="allranks")


if __name__ == "__main__":
    (PICTURES / "failure.svg").write_text(drawn(COMMAND, shown(COMMAND)))
