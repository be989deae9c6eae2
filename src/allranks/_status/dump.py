"""``allranks dump``: what ``status`` shows, and more, as files that can be kept and sent."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._status.page import page
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._watch.status_report import JobReport, RankRow

PAGE = "index.html"
"""The file to open in a browser."""


def default_directory() -> Path:
    """A directory of the moment, in the current one."""
    return Path(time.strftime("allranks-dump-%Y%m%d-%H%M%S"))


def prepare(directory: Path) -> None:
    """Make a directory, unless it is there; one with files in it is refused, and left as it is.

    Raises:
        ConfigError: there is something in the directory, or it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        used = next(directory.iterdir(), None)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be used: {error.strerror}") from error
    if used:
        raise ConfigError(f"{directory} is not empty ({used.name} is there): name another one")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(f"{directory} cannot be written by this user")


def dump(jobs: Sequence[JobReport], directory: Path) -> list[Path]:
    """Write each job's files, those of several jobs into directories of their own.

    Args:
        jobs: asked with verdicts and details.
        directory: where; it is there, and empty.

    Returns:
        The page of each job.
    """
    if len(jobs) == 1:
        return [_dump_job(jobs[0], directory)]
    names = [f"{at}-{_file_name(job.job)}" for at, job in enumerate(jobs, start=1)]
    return [_dump_job(job, directory / name) for job, name in zip(jobs, names, strict=True)]


def _file_name(job: str) -> str:
    return re.sub(r"[^\w.-]+", "-", job)[:64] or "job"


def _dump_job(job: JobReport, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for row in job.rows:
        _write(directory / f"rank-{row.rank}.json", _rank(row))
    _write(directory / "job.json", _summary(job))
    _write(directory / "verdict.txt", f"{job.verdict or job.trouble or 'no rank waits'}\n")
    _write(directory / PAGE, page(job))
    return directory / PAGE


def _rank(row: RankRow) -> str:
    return json.dumps(asdict(row), indent=1)


def _summary(job: JobReport) -> str:
    """All but what is in the ranks' own files."""
    told = asdict(replace(job, rows=()))
    del told["rows"]
    return json.dumps({**told, "ranks": [*map(_short, job.rows)]}, indent=1)


def _short(row: RankRow) -> dict[str, object]:
    told = asdict(replace(row, record=None, detail=None))
    return {name: value for name, value in told.items() if name not in ("record", "detail")}


def _write(path: Path, text: str) -> None:
    path.write_text(text, errors="backslashreplace")
