"""The settings of ``setup``: read from any mapping, checked before anything is done."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Literal, TypedDict

from allranks._system.printable import brief_repr
from allranks._system.variables import BIND
from allranks._watch.torch_groups import DEFAULT_TIMEOUT
from allranks.errors import ConfigError

Check = bool | Literal["lines"]

DEFAULT_RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
DEFAULT_STALL_AFTER = timedelta(seconds=60)


class SettingsDict(TypedDict, total=False):
    """The keyword settings of ``setup``, for editors and type checkers."""

    world_size: int | None
    rank: int | None
    cpu: bool | None
    distributed_backend: str | None
    submit: bool | None
    init_method: str | None
    shared_file_dir: str | None
    array_job_num: int | None
    timeout: float | timedelta | None
    rendezvous_timeout: float | timedelta | None
    check: Check | None
    stall_after: float | timedelta | None
    bind: Literal["numa"] | None


@dataclass(frozen=True)
class Settings:
    """What was asked of ``setup``; None means detect.

    Attributes:
        world_size: the number of ranks.
        rank: this process's rank, where no launcher tells it.
        cpu: True for the CPU, False for an accelerator, None for whatever is there.
        distributed_backend: torch's backend, taken to the letter.
        submit: True if this must be a Slurm step, False if Slurm is to be ignored.
        init_method: "tcp", "file", "env" or a URL.
        shared_file_dir: a directory that all hosts share.
        array_job_num: tells the jobs of an array apart in a shared directory.
        timeout: how long a collective may take.
        rendezvous_timeout: how long the ranks may take to find each other.
        check: verify bare-tensor collectives too; None means as ALLRANKS_CHECK says.
        stall_after: how long a collective may take before the ranks tell where they stand; None
            means as ALLRANKS_STALL_AFTER says.
        bind: "numa" keeps this process on CPUs near its device; None means as ALLRANKS_BIND says.
    """

    world_size: int | None = None
    rank: int | None = None
    cpu: bool | None = None
    distributed_backend: str | None = None
    submit: bool | None = None
    init_method: str | None = None
    shared_file_dir: str | None = None
    array_job_num: int | None = None
    timeout: timedelta = DEFAULT_TIMEOUT
    rendezvous_timeout: timedelta = DEFAULT_RENDEZVOUS_TIMEOUT
    check: Check | None = None
    stall_after: timedelta | None = None
    bind: Literal["numa"] | None = None


KNOWN = tuple(field.name for field in fields(Settings))

OF_TORCH = {
    "backend": "that is distributed_backend here",
    "device_id": "cpu=False takes an accelerator, the one of this rank's local rank",
    "store": "the ranks make a store of their own",
    "group_name": "leave it out",
    "pg_options": "make the group by init_process_group, and setup() adopts it",
}
"""What to do with the arguments of torch's ``init_process_group`` that have other names here."""


def read(config: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> Settings:
    """Settings from a configuration mapping, overridden by keywords; ``bind`` has a variable, too.

    Raises:
        ConfigError: a key that is misspelt, an unknown keyword, or a value of a wrong kind.
    """
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"config={brief_repr(config)}: expected a mapping or None; settings such as "
            "distributed_backend are keywords"
        )
    given = dict(config or {})
    for key in given:
        _refuse_misspelling(key)
    for key in keywords:
        if key not in KNOWN:
            hint = f": {OF_TORCH[key]}" if key in OF_TORCH else _guess(key)
            raise ConfigError(f"unknown setting {key!r}{hint}; known: {', '.join(KNOWN)}")
    merged = {**given, **keywords}
    if merged.get("bind") is None and os.environ.get(BIND):
        merged["bind"] = _binding(BIND, os.environ[BIND])
    chosen = {key: merged[key] for key in KNOWN if merged.get(key) is not None}
    return Settings(**{key: _checked(key, value) for key, value in chosen.items()})


def _refuse_misspelling(key: object) -> None:
    if isinstance(key, str) and key not in KNOWN and _guess(key):
        raise ConfigError(f"unknown key {key!r} in the configuration{_guess(key)}")


def _guess(key: str) -> str:
    close = difflib.get_close_matches(key.lower(), KNOWN, n=1, cutoff=0.85)
    return f"; did you mean {close[0]!r}?" if close else ""


def _checked(key: str, value: Any) -> Any:
    if key in ("cpu", "submit"):
        return boolean(key, value)
    if key in ("world_size", "rank", "array_job_num"):
        return _integer(key, value, least=1 if key == "world_size" else 0)
    if key == "timeout":
        return _span(key, value, timedelta(minutes=1), "minutes")
    if key in ("rendezvous_timeout", "stall_after"):
        return _span(key, value, timedelta(seconds=1), "seconds")
    if key == "check" and value != "lines":
        return boolean(key, value, or_else=' or "lines"')
    # A StrEnum or a path is as good as its text.
    return _binding(key, value) if key == "bind" else str(value)


def boolean(name: str, value: Any, or_else: str = "") -> bool:
    """The value as a bool.

    Args:
        name: the argument or setting.
        value: what was given for it.
        or_else: what else the caller takes, for the error.

    Raises:
        ConfigError: it is neither True nor False.
    """
    if value is True or value is False:
        return bool(value)
    raise ConfigError(f"{name}={brief_repr(value)}: expected True or False{or_else}")


def _binding(name: str, value: Any) -> str:
    if value == "numa":
        return "numa"
    raise ConfigError(f'{name}={brief_repr(value)}: expected "numa", or nothing')


def _integer(key: str, value: Any, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ConfigError(f"{key}={value!r}: expected an integer of at least {least}")


def _span(key: str, value: Any, unit: timedelta, name: str) -> timedelta:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        span = value * unit if number else value
    except (OverflowError, ValueError):
        span = None
    if isinstance(span, timedelta) and span > timedelta(0):
        return span
    raise ConfigError(f"{key}={value!r}: expected {name} as a positive number, or a timedelta")
