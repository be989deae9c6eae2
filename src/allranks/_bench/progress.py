"""How far a run has come: a bar on rank 0's terminal."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._system import streams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class Bar:
    """A bar, which may be drawn nowhere.

    Attributes:
        progress: what draws it.
        task: its number there.
    """

    progress: Progress
    task: TaskID

    def say(self, text: str) -> None:
        """What is measured now."""
        self.progress.update(self.task, description=text)

    def advance(self) -> None:
        """One step is done."""
        self.progress.advance(self.task)


@contextmanager
def bar(steps: int, *, here: bool) -> Iterator[Bar]:
    """A bar on standard error, where that is a terminal.

    Args:
        steps: how many there are.
        here: whether this rank shows it.
    """
    from rich.progress import Progress

    console = streams.console(stderr=True)
    drawn = here and console.is_terminal
    with Progress(console=console, transient=True, disable=not drawn) as progress:
        yield Bar(progress, progress.add_task("", total=steps))
