"""What stands in pages between ``<!-- generated: ... -->`` and ``<!-- end -->``: `make pages`.

A page is written by hand, but for these blocks, each of which has its owner in the code, in a
recording, or in another page. The first word of the comment says which of ``KINDS`` writes it.

    python docs/scripts/generate.py            # writes them all
    python docs/scripts/generate.py --check    # says which pages are not as they would be written
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import launcher_blocks
import settings_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[2]

KINDS: Mapping[str, Callable[..., str]] = {
    "env": launcher_blocks.env,
    "environment": settings_blocks.environment,
    "file": launcher_blocks.file,
    "geometries": launcher_blocks.geometries,
    "launchers": launcher_blocks.launchers,
    "notes": launcher_blocks.notes,
    "order": launcher_blocks.order,
    "settings": settings_blocks.settings,
    "variables": launcher_blocks.variables,
}

BLOCK = re.compile(r"^<!-- generated: ([^\n]+) -->$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


def pages() -> dict[Path, str]:
    """All pages with generated blocks, as they are to be."""
    texts = {page: page.read_text() for page in sorted((ROOT / "docs").rglob("*.md"))}
    return {page: BLOCK.sub(_block, text) for page, text in texts.items() if BLOCK.search(text)}


def _block(found: re.Match[str]) -> str:
    kind, *arguments = shlex.split(found[1])
    text = KINDS[kind](*arguments).strip("\n")
    return f"<!-- generated: {found[1]} -->\n\n{text}\n\n<!-- end -->"


def main() -> None:
    """Write the pages, or say which differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    changed = {page: text for page, text in pages().items() if text != page.read_text()}
    for page, text in changed.items():
        print(f"{page.relative_to(ROOT)} {'is not what `make pages` writes' if check else ''}")
        if not check:
            page.write_text(text)
    sys.exit(int(check and bool(changed)))


if __name__ == "__main__":
    main()
