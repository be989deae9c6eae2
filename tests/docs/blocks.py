"""The code blocks of the documentation, as its Markdown has them.

A comment right before a block, which no reader sees, tells what the block needs:

- ``file: NAME``: the block is that file, which later blocks of the page may run.
- ``given NAME: CODE``: a file that is not shown.
- ``before: CODE``: lines that a fragment stands on. The code may have several lines.
- ``while: COMMAND``: what runs in the background, until the output of the block is right.
- ``ranks: N``: on how many ranks Python's lines run; else two.
- ``varies: numbers``: they differ from run to run, such as times.
- ``elsewhere: WHAT``: which test, or which hardware, runs it instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

RUN = ("python", "console", "bash")
"""The languages of what can be run; the rest is configuration, output, or a drawing."""


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: where it is, below the root of the repository.
        line: of its first line.
        language: as its fence says.
        text: what is in it.
        told: what the comments before it tell, by what stands before their colon.
    """

    page: str
    line: int
    language: str
    text: str
    told: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    found, told = [], {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block" and token.content.startswith("<!-- "):
            word, _, rest = token.content.strip()[5:-3].strip().partition(":")
            told[word] = rest.strip("\n ")
        elif token.type == "fence":
            line = token.map[0] + 2
            name = str(page.relative_to(ROOT))
            found.append(Block(name, line, token.info.strip(), token.content, told))
            told = {}
        elif not token.hidden:
            told = {}
    return found


def steps(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with what it prints."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and not found[-1][1]:
            found[-1] = (f"{found[-1][0]}\n{line[2:]}", "")
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
    return found
