"""A table as Markdown has it."""

from __future__ import annotations


def table(head: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    """The lines of a table.

    Args:
        head: its columns.
        *rows: its lines, each as long as the head.
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
