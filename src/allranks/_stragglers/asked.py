"""Whether reports are asked for, by ALLRANKS_REPORT; this imports no numpy, as each setup does."""

from __future__ import annotations

import math
import os

from allranks._system import variables
from allranks.errors import ConfigError

REPORT = "ALLRANKS_REPORT"
"""The variable: seconds between two lines; all ranks must have the same."""


def asked() -> float | None:
    """Seconds between two lines; None where nobody asks for them.

    Raises:
        ConfigError: the variable holds something else.
    """
    text = os.environ.get(REPORT, "")
    if not text or text == "0":
        return None
    seconds = variables.number(REPORT)
    if 0 < seconds < math.inf:
        return seconds
    raise ConfigError(f"{REPORT}={text!r}: expected seconds, as a positive number, or 0 for never")
