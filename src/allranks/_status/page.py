"""A job as one page of HTML, which needs no network: who waits for whom, and who came when."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from allranks._status.lanes import LAST, lanes
from allranks._status.lanes_picture import lanes_picture
from allranks._status.waiting_for import stands
from allranks._status.waiting_picture import waiting_picture
from allranks._system.printable import printable
from allranks._system.words import ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._status.waiting_for import Stand
    from allranks._watch.status_report import JobReport, RankRow

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1.5rem; color: #1d2433; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.sub { color: #5a6478; margin-top: .2rem; }
.verdict { border-left: 4px solid #c2410c; background: #fff7ed; padding: .8rem 1rem; }
.note { border-left: 4px solid #5a6478; background: #f3f5f8; padding: .8rem 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e3e7ee;
  vertical-align: top; }
th { color: #5a6478; font-weight: 600; }
code, pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: #f3f5f8; padding: .6rem .8rem; overflow-x: auto; }
svg { max-width: 100%; height: auto; } svg text { font: 13px system-ui, "DejaVu Sans", sans-serif; }
details { margin: .3rem 0; } summary { cursor: pointer; }
"""

STACKS = 64
"""How many ranks' threads are on the page; those of the others are in their files."""


def page(job: JobReport) -> str:
    """The page.

    Args:
        job: asked with a verdict and details.
    """
    title = printable(f"{job.job or 'a job'}: {job.world_size or len(job.rows)} ranks")
    found = stands(job.rows)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(_when(job))}</p>',
        _told("verdict", job.verdict),
        _told("note", f"{job.trouble}; this host's ranks alone are shown" if job.trouble else ""),
        "<h2>Who waits for whom</h2>",
        waiting_picture(found),
        *_lanes(job.rows),
        "<h2>All ranks</h2>",
        _table(found),
        "<h2>Where their threads stand</h2>",
        *map(_threads, job.rows[:STACKS]),
        _more(job.rows),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(filter(None, parts))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _when(job: JobReport) -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"asked at {now}, by allranks dump; started by {job.launcher or 'an unknown launcher'}"


def _told(kind: str, text: str) -> str:
    return f'<p class="{kind}">{escape(printable(text))}</p>' if text else ""


def _lanes(rows: Sequence[RankRow]) -> list[str]:
    found = lanes(rows)
    if not found:
        return []
    title = f"The last {LAST} calls on {printable(found.group)}, at most, and who came late"
    return [f"<h2>{escape(title)}</h2>", lanes_picture(found)]


def _table(found: Sequence[Stand]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("ranks", "state", "at", "for", "host", "pid"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, found))}</table>"


def _row(stand: Stand) -> str:
    seconds = max(row.seconds for row in stand.rows)
    cells = (
        ranges(stand.ranks),
        stand.state,
        stand.rows[0].doing,
        f"{seconds:.1f} s" if seconds else "",
        _few([row.host for row in stand.rows if row.host]),
        _few([str(row.pid) for row in stand.rows if row.pid]),
    )
    return f"<tr>{''.join(f'<td>{escape(printable(cell))}</td>' for cell in cells)}</tr>"


def _few(texts: Sequence[str], most: int = 4) -> str:
    different = list(dict.fromkeys(texts))
    more = f" and {len(different) - most} more" if len(different) > most else ""
    return ", ".join(different[:most]) + more


def _threads(row: RankRow) -> str:
    threads = row.detail.threads if row.detail else {}
    if not threads:
        return ""
    told = "\n\n".join(f"{name}\n  " + "\n  ".join(lines) for name, lines in threads.items())
    summary = f"rank {row.rank}: {row.stack[0] if row.stack else row.doing}"
    text = f"<pre>{escape(printable(told))}</pre>"
    return f"<details><summary>{escape(printable(summary))}</summary>{text}</details>"


def _more(rows: Sequence[RankRow]) -> str:
    more = len(rows) - STACKS
    return f"<p>{more} more ranks: see their files, rank-N.json.</p>" if more > 0 else ""
