"""The ports that this job may listen on: which, in which order, and one that is free."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._system import sockets
from allranks.errors import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

PORT_RANGE = "ALLRANKS_PORT_RANGE"
"""The variable with the only ports that a firewall lets through, as in 20000-20100."""


def allowed(environ: Mapping[str, str]) -> range | None:
    """The ports that ALLRANKS_PORT_RANGE allows; None where it is not set.

    Raises:
        ConfigError: it is no range of ports.
    """
    text = environ.get(PORT_RANGE, "")
    if not text:
        return None
    found = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if 1 <= first <= last <= 65535:
        return range(first, last + 1)
    raise ConfigError(f"{PORT_RANGE}={text!r}: expected two ports, as in 20000-20100")


def of_the_kernel() -> range | None:
    """The ports that the kernel gives to sockets that ask for none; None where it does not say."""
    try:
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        return None
    return range(first, last + 1)


def listen_on_any(host: str, among: range | None) -> socket.socket:
    """A socket that listens on any port that is free.

    Args:
        host: an address or name of this host; "" for all interfaces.
        among: the ports that may be used; None for any.

    Raises:
        OSError: as ``sockets.listen`` does.
        ConfigError: none of the ports is free.
    """
    if among is None:
        return sockets.listen(host, 0)
    # The program's own generator stays as it is: its seed is to give the same numbers.
    for port in random.SystemRandom().sample(among, len(among)):
        try:
            return sockets.listen(host, port)
        except OSError as error:
            if not sockets.is_taken(error):
                raise
    raise ConfigError(
        f"{PORT_RANGE}={among[0]}-{among[-1]}: no port of it is free on this host; allow more"
    )
