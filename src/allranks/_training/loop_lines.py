"""A loop, shown line by line: in files, pipes and notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from allranks._training.loop_state import LoopState


class LoopLines:
    """Prints a line now and then, one for the last item, and one for the whole loop."""

    def __init__(self, loop: LoopState, print_freq: float) -> None:
        """Prepare.

        Args:
            loop: the loop.
            print_freq: every how many items a line is printed; 0 means for the last one only.
        """
        self._loop = loop
        self._print_freq = print_freq
        self._shown = 0

    def show(self) -> None:
        """An item is done."""
        number = self._loop.done - 1
        due = self._print_freq and number % self._print_freq == 0
        if due or self._loop.done == self._loop.length:
            self._show_item()

    def finish(self) -> None:
        """The loop has come to its end, which only now is known where it had no length."""
        if self._shown < self._loop.done:
            self._show_item()
        show_line(self._loop.summary())

    def close(self) -> None:
        """The loop was left, at its end or before."""

    def _show_item(self) -> None:
        self._shown = self._loop.done
        show_line(self._loop.line())


def show_line(text: str) -> None:
    """Print a line at once, by the program's own ``print``, which may add the time of day."""
    print(text, flush=True)  # noqa: T201 - the program may have put another in its place
