"""A table as Markdown has it: written, and read."""

from __future__ import annotations

from itertools import dropwhile, takewhile


def table(head: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    """The lines of a table.

    Args:
        head: its columns.
        *rows: its lines, each as long as the head.
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def rows_of(text: str, begins: str) -> list[tuple[str, ...]]:
    """The rows of a table, its head first.

    Args:
        text: a page.
        begins: how the head begins; or what stands before the table, such as its heading.
    """
    lines = text[text.index(begins) :].splitlines()
    here = takewhile(_is_row, dropwhile(lambda line: not _is_row(line), lines))
    head, _, *rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in here]
    return [head, *rows]


def _is_row(line: str) -> bool:
    return line.startswith("|")
