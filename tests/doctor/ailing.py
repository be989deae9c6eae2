"""A rank of the doctor that does not do its part: KIND says which, at AILING's rank."""

from __future__ import annotations

import os
import time

from allranks._doctor import examination
from allranks._doctor.command import run_doctor


def hang(*_: object, **__: object) -> None:
    time.sleep(1000)


def die(*_: object, **__: object) -> None:
    os._exit(3)


WAYS = {
    "hangs before its facts": ("_own_facts", hang),
    "hangs in the trial": ("collective_rows", hang),
    "dies in the trial": ("collective_rows", die),
    "dies as rank 0": ("_judged", die),
}

if __name__ == "__main__":
    if os.environ["RANK"] == os.environ["AILING"]:
        setattr(examination, *WAYS[os.environ["KIND"]])
    run_doctor(30, json=True)
