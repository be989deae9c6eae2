"""What is recognised, counted for people, as JSON for programs, and as a page of documentation."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from allranks._migrate.recognise import HELPER, INLINE, NO_RANKS, RECOGNISED, UNKNOWN
from allranks._migrate.rows import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from allranks._migrate.call_sites import Site
    from allranks._migrate.recognise import Recognition
    from allranks._migrate.row import Row

HEAD = """\
# What to write instead

`allranks migrate FILE...` reads a `dist_utils.py`, `misc.py`, `comm.py` or `torch_utils.py` by its
syntax tree, without running it, and says for each function what to write instead. It goes by this
table: a function is recognised by one of its names, if its body does what that name is for; or by
its body alone, if that is small and does nothing else.

Give the files that import from it, too, or the directory of the project (`allranks migrate .`).
Then each line that uses one of the functions is shown with what to write there:

```text
main.py:41  utils.save_on_master(...)  ->  allranks.save(...)
main.py:52  args.rank  ->  allranks.get_rank()
```

- `(...)` stands for arguments that stay as they are.
- What a set-up function leaves on its argument (`args.rank`, `args.gpu`, ...) is in its row, and
  each place that reads it is among these lines. `args.distributed` becomes
  `allranks.get_world_size() > 1`: False in a world of one, where a function that goes by a
  launcher's variables may have said True.
- "By hand" stands before a line where no line of ours takes the same arguments, with the reason.
- "Look" stands before what could not be followed: a module that is handed on or given to `getattr`,
  `from ... import *`, an import by a text, an attribute whose name is not in the source.
- The last lines name what is in the file beside such functions: move it before you delete the file.

Two ways lead on. To delete the file, write what these lines say, and move the rest. To keep it,
`--diff` prints a patch for review, which makes each function a call of ours, so that no caller
changes; comments under the patch name what it leaves as it is, and why. `--json` is for programs.

This page is made of the rows in `src/allranks/_migrate/`:
`python -m allranks._migrate.shown > docs/migrate.md`.
"""


def summary(recognised: Sequence[Recognition]) -> str:
    """How many functions there are of each kind, and those that are not about ranks by name."""
    count = Counter(one.status for one in recognised)
    parts = [
        f"{count[status]} {words}"
        for status, words in (
            (RECOGNISED, "recognised"),
            (HELPER, "helpers of these"),
            (UNKNOWN, "not recognised"),
            (NO_RANKS, "not about ranks"),
            (INLINE, "calls in no function"),
        )
        if count[status]
    ]
    others = [one.name for one in recognised if one.status == NO_RANKS and not one.note]
    told = ", ".join(parts) or "no functions"
    return f"{told}{'. Not about ranks: ' if others else ''}{', '.join(others)}"


def plain(recognised: Sequence[Recognition]) -> list[dict[str, Any]]:
    """What is recognised, for programs."""
    fields = ("name", "line", "status", "known_by", "ours", "write", "note")
    return [
        {**{field: getattr(one, field) for field in fields}, "leaves": dict(one.leaves)}
        for one in recognised
    ]


def plain_site(site: Site) -> dict[str, Any]:
    """What to write in a file, for programs; ``by_hand`` says why ``new`` is only an example."""
    return {
        "writes": [
            {"line": one.line, "old": one.old, "new": one.new, "by_hand": one.by_hand}
            for one in site.changes
        ],
        "uses_what_stays": [
            {"line": line, "file": target.source.name, "name": target.name}
            for target, line in site.kept
        ],
        "look": [{"line": line, "note": note} for line, note in site.notes],
    }


def page() -> str:
    """The page of the documentation: all rows."""
    return "\n".join([HEAD, *_page_lines()])


def _page_lines() -> Iterator[str]:
    for title, rows in SECTIONS:
        yield f"## {title}\n"
        yield "| It goes by | Write | What differs |"
        yield "| --- | --- | --- |"
        for row in rows:
            yield f"| {_names(row)} | {_line(row)} | {_cell(row.differs)} |"
        yield ""


def _names(row: Row) -> str:
    first, *others = row.names.split()
    shown = ", ".join(f"`{name}`" for name in (first, *others[:3]))
    kind = {"class": " (class)", "method": " (method)"}.get(row.kind, "")
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"{shown}{more}{kind}"


def _line(row: Row) -> str:
    return f"`{row.line}`" if row.line else "nothing: it is no longer needed"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
