"""All that there is to say of some files: tables and lines for people, a list for programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allranks._migrate.layout import listed, site_lines, table, wrapped
from allranks._migrate.patch import left_alone, patch
from allranks._migrate.remains import WHY, partings, remains
from allranks._migrate.shown import plain, plain_site, summary
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from allranks._migrate.call_sites import Site
    from allranks._migrate.project import Source

BY_NAME = (
    "What the set-up function leaves on its argument was looked for under the names that the "
    "argument has where it is called; where it goes by another name, look yourself."
)


def as_text(sites: Sequence[Site], width: int) -> Iterator[Table | str]:
    """What to show, in its order: what files hold, what to write in others, what has to move."""
    shown = [site for site in sites if _is_shown(site)]
    for site in shown:
        yield from _functions(site.source, width)
    if not shown and not any(site.changes or site.notes for site in sites):
        yield f"No function about ranks in {_files(len(sites))}."
    yield from _places(sites, width)
    for site in sites:
        yield from (line for text in partings(site.source, sites) for line in wrapped(text, width))


def _is_shown(site: Site) -> bool:
    """A file that was given, and not for its calls alone; or one of a directory with helpers."""
    return site.source.holds_helpers() or (site.source.asked and not site.changes)


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _functions(source: Source, width: int) -> Iterator[Table | str]:
    if made := table(source.name, source.recognised, width):
        yield made
    else:
        yield from listed(source.name, source.recognised, width)
    yield from wrapped(summary(source.recognised), width, "", "")
    yield ""


def _places(sites: Sequence[Site], width: int) -> Iterator[str]:
    told = [line for site in sites for line in site_lines(site, width)]
    if not told:
        return
    yield from wrapped("Where these are used, write:", width)
    yield from told
    if any(one.leaves for site in sites for one in site.source.recognised):
        yield from wrapped(BY_NAME, width, "", "")
    yield ""


def diff(source: Source) -> str:
    """The patch of a file, and under it what it leaves; "" for one of a directory without any."""
    if not source.asked and not source.going():
        return ""
    changes = patch(source.module, source.recognised, _name_in_patch(source))
    comments = [printable(line) for line in left_alone(source.module, source.recognised)]
    return changes + "".join(f"{' '.join(line.split(chr(10)))}\n" for line in comments)


def _name_in_patch(source: Source) -> str:
    """A file's name from here, as ``git apply`` wants it, where it lies below."""
    if source.path is None:
        return "stdin.py"
    below = source.path.is_relative_to(Path.cwd())
    return os.path.relpath(source.path) if below else source.name


def programs_report(sites: Sequence[Site]) -> list[dict[str, Any]]:
    """The same for programs: files of a directory of which there is nothing to say are left out."""
    return [
        {
            "file": site.source.name,
            "functions": plain(site.source.recognised),
            **plain_site(site),
            "move": [{"name": name, "why": WHY[key]} for name, key in _moving(site.source)],
        }
        for site in sites
        if site.source.asked or site.source.holds_helpers() or site.changes or site.notes
    ]


def _moving(source: Source) -> list[tuple[str, str]]:
    return remains(source) if source.going() else []
