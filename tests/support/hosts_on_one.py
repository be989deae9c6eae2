"""Ranks of this host that are told they are on several, as by a launcher that started them."""

from __future__ import annotations

import os


def as_on_two_hosts(monkeypatch, per_host: int = 2) -> int:
    """Describe this rank's place among hosts of so many ranks each; the rank."""
    rank = int(os.environ["RANK"])
    for name in [name for name in os.environ if name.startswith("ALLRANKS_")]:
        monkeypatch.delenv(name)
    place = {
        "LOCAL_RANK": rank % per_host,
        "LOCAL_WORLD_SIZE": per_host,
        "NODE_RANK": rank // per_host,
    }
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    return rank
