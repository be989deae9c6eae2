"""The URLs of ``init_method``: written by ``get_init_method``, read by ``setup``."""

from __future__ import annotations

import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from allranks._launchers import hostlist
from allranks._launchers.job_ports import DISTRIBUTED_PORT
from allranks._system import sockets
from allranks._system.graph_breaks import outside_graphs
from allranks.errors import ConfigError


@dataclass(frozen=True)
class InitMethod:
    """An ``init_method`` URL, taken apart.

    Attributes:
        scheme: ``tcp`` or ``file``.
        host: rank 0's host, without brackets; None for a file.
        port: rank 0's port; None for a file.
        path: the file's absolute path; None for tcp.
        world_size: the world size that the URL carries, or None.
        rank: the rank that the URL carries, or None.
    """

    scheme: str
    host: str | None = None
    port: int | None = None
    path: str | None = None
    world_size: int | None = None
    rank: int | None = None


@outside_graphs
def get_init_method(
    init_method: str,
    world_size: int | None,
    rank: int | None = None,
    node_list: str | None = None,
    filename: str | None = None,
) -> str:
    """The ``init_method`` URL for ``torch.distributed.init_process_group``. Not collective.

    Args:
        init_method: "tcp" or "file".
        world_size: the number of ranks; None takes WORLD_SIZE, else 1.
        rank: this process's rank; None takes RANK, else 0.
        node_list: for "tcp": the nodes in Slurm's notation, rank 0's first.
        filename: for "file": the shared file; None takes a new temporary name, which only a
            world of one can use.

    Returns:
        ``tcp://host:13356?world_size=N&rank=R`` (a free port in a world of one), or
        ``file:///path?world_size=N&rank=R``.
        IPv6 addresses stand in brackets, and paths are absolute and escaped.

    Raises:
        ConfigError: an unknown kind, a rank outside the world, or a node list or a file name
            that is missing or malformed.
    """
    world_size = _number("WORLD_SIZE", world_size, 1)
    rank = _number("RANK", rank, 0)
    if world_size < 1 or not 0 <= rank < world_size:
        raise ConfigError(
            f"rank={rank} with world_size={world_size}: a rank lies between 0 and world_size - 1"
        )
    query = urlencode({"world_size": world_size, "rank": rank})
    if init_method == "tcp":
        port = sockets.free_port() if world_size == 1 else DISTRIBUTED_PORT
        return f"tcp://{_bracketed(_first_host(node_list))}:{port}?{query}"
    if init_method == "file":
        return f"file://{_escaped(_shared_file(filename, world_size))}?{query}"
    raise ConfigError(f"init_method={init_method!r}: only 'tcp' and 'file' make a URL")


def parse(url: str) -> InitMethod:
    """Take an ``init_method`` URL apart.

    Raises:
        ConfigError: it is no ``tcp://host:port`` or ``file:///path`` URL, and why.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ConfigError(f"init_method={url!r}: {error}") from None
    given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    numbers = {
        key: _integer(url, key, given[key]) for key in given if key in {"world_size", "rank"}
    }
    world_size, rank = numbers.get("world_size"), numbers.get("rank")
    if parts.scheme == "tcp" and host and port is not None:
        return InitMethod("tcp", host, port, world_size=world_size, rank=rank)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return InitMethod("file", path=unquote(parts.path), world_size=world_size, rank=rank)
    raise ConfigError(f"init_method={url!r}: expected tcp://host:port or file:///absolute/path")


def _number(variable: str, given: int | None, default: int) -> int:
    if given is not None:
        return given
    text = os.environ.get(variable)
    return default if text is None else _integer(variable, variable, text)


def _integer(where: str, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{where}: {name}={text!r} is not an integer") from None


def _first_host(node_list: str | None) -> str:
    if not node_list:
        raise ConfigError("init_method='tcp' needs node_list, as in SLURM_STEP_NODELIST")
    if ":" in node_list:
        return node_list.strip("[]")
    try:
        return next(iter(hostlist.expand(node_list)))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _escaped(path: str) -> str:
    """Escape what would end a URL's path, and no more: torch takes the rest as it stands."""
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _shared_file(filename: str | None, world_size: int) -> str:
    if filename is not None:
        return str(Path(filename).absolute())
    if world_size > 1:
        raise ConfigError(
            f"init_method='file' with world_size={world_size} needs filename: "
            "each rank would make up another one"
        )
    return str(Path(tempfile.gettempdir()) / f"allranks-{uuid.uuid4().hex}")
