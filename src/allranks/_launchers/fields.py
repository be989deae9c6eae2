"""What the launchers' readers share: numbers out of the environment, checked against each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TypeAlias, TypeVar

    Environ: TypeAlias = Mapping[str, str]
    T = TypeVar("T")


class VariableNames(NamedTuple):
    """The variables in which a launcher gives a process's place; "" where it has none."""

    rank: str
    world_size: str
    local_rank: str = ""
    local_world_size: str = ""
    node_rank: str = ""
    num_nodes: str = ""
    master_addr: str = "MASTER_ADDR"
    master_port: str = "MASTER_PORT"


class _RequiredFields(TypedDict):
    rank: int
    world_size: int


class WorldFields(_RequiredFields, total=False):
    """The fields of a ``World``, without the launcher's name."""

    local_rank: int | None
    local_world_size: int | None
    node_rank: int | None
    num_nodes: int | None
    job: str
    notes: tuple[str, ...]
    doubt: str
    hosts: tuple[str, ...]
    master_addr: str | None
    master_port: int | None
    agent_store: bool
    attempt: int
    store_path: str | None


CONSISTENT = "Set them all as the launcher would, or unset them all."


def fault(environ: Environ, names: Iterable[str], problem: str, fix: str) -> DetectionError:
    """An error that tells the problem, each variable with the value seen, and the fix."""
    seen = {name: environ.get(name) for name in names}
    told = [f"{k} is not set" if v is None else f"{k}={v!r:.200}" for k, v in seen.items()]
    return DetectionError(f"{problem}: {', '.join(told)}. {fix}", seen)


def whole(environ: Environ, name: str, least: int = 0) -> int:
    """The whole number that a variable holds.

    Raises:
        DetectionError: it holds something else, or a number below ``least``, or one of 10 digits.
    """
    text = environ[name].strip()
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least:
        return int(text)
    problem = f"{name} is not a whole number from {least} to 999999999"
    raise fault(environ, (name,), problem, "Unset it, or let the launcher set it.")


def require(environ: Environ, *names: str) -> None:
    """Raise a ``DetectionError`` that names all of these variables if any is unset or empty."""
    if not all(environ.get(name) for name in names):
        raise fault(environ, names, "The launcher's variables are incomplete", CONSISTENT)


def place(
    environ: Environ,
    names: VariableNames,
    *,
    local_world_size: int | None = None,
    num_nodes: int | None = None,
) -> WorldFields:
    """Read and cross-check the numbers that these variables hold.

    Args:
        environ: the environment.
        names: the variables; rank and world size must be set, the others may be.
        local_world_size: the number itself, where the variable does not hold it as such.
        num_nodes: the same.

    Raises:
        DetectionError: a number is missing, malformed, or contradicts another one.
    """
    require(environ, names.rank, names.world_size)
    here = WorldFields(
        rank=whole(environ, names.rank),
        world_size=whole(environ, names.world_size, 1),
        local_rank=number(environ, names.local_rank),
        local_world_size=local_world_size or number(environ, names.local_world_size, 1),
        node_rank=number(environ, names.node_rank),
        num_nodes=num_nodes or number(environ, names.num_nodes, 1),
        master_addr=environ.get(names.master_addr) or None,
        master_port=_port(environ, names.master_port),
    )
    for problem, at_fault in _contradictions(names, here):
        raise fault(environ, at_fault, problem, CONSISTENT)
    one_host = here["num_nodes"] == 1 or here["world_size"] in (1, here["local_world_size"])
    return on_one_host(here) if one_host else here


def number(environ: Environ, name: str, least: int = 0) -> int | None:
    return whole(environ, name, least) if name in environ else None


def _port(environ: Environ, name: str) -> int | None:
    if not environ.get(name):
        return None
    port = whole(environ, name, 1)
    if port > 65535:
        raise fault(environ, (name,), f"{name} is no port", "Ports go from 1 to 65535.")
    return port


def _contradictions(
    names: VariableNames, here: WorldFields
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What cannot be, and the variables at fault."""
    rank, size, node = here["rank"], here["world_size"], here["node_rank"]
    local, on_this_host, nodes = here["local_rank"], here["local_world_size"], here["num_nodes"]
    of_local = names.world_size if on_this_host is None else names.local_world_size
    of_node = names.world_size if nodes is None else names.num_nodes
    for name, value, of, count in (
        (names.rank, rank, names.world_size, size),
        (names.local_rank, local, of_local, size if on_this_host is None else on_this_host),
        (names.node_rank, node, of_node, size if nodes is None else nodes),
    ):
        if value is not None and value >= count:
            yield f"{name} is too large for {of}", (name, of)
    if not hosts_fit(size, on_this_host, nodes):
        known = ((names.local_world_size, on_this_host), (names.num_nodes, nodes))
        told = [name for name, value in known if name and value is not None]
        yield f"{' and '.join(told)} cannot make up {names.world_size}", (names.world_size, *told)
    if node and on_this_host == size:
        at_fault = (names.node_rank, names.local_world_size, names.world_size)
        yield f"{names.node_rank} is too large: all ranks are on one host", at_fault


def hosts_fit(size: int, on_this_host: int | None, num_nodes: int | None) -> bool:
    """Whether so many hosts can hold so many ranks: each holds one at least."""
    if num_nodes == 1:
        return on_this_host in (None, size)
    return (on_this_host or 1) + (num_nodes or 1) - 1 <= size


def on_one_host(here: WorldFields) -> WorldFields:
    """Fill in what follows from all ranks being on one host."""
    if here.get("local_rank") is None:
        here["local_rank"] = here["rank"]
    here["local_world_size"] = here["world_size"]
    here["node_rank"], here["num_nodes"] = 0, 1
    return here


def first_set(environ: Environ, *names: str) -> str:
    return next((name for name in names if name in environ), names[-1])


def joined(*parts: object) -> str:
    """A job's identity: what is known of these, joined by colons."""
    return ":".join(str(part) for part in parts if part)


def parsed_list(environ: Environ, name: str, parse: Callable[[str], list[T]]) -> list[T]:
    try:
        return parse(environ[name])
    except ValueError as error:
        raise fault(environ, (name,), f"{name}: {error}", CONSISTENT) from None


def require_size(environ: Environ, rank: str, size: str) -> None:
    if size not in environ:
        problem = "This launcher does not tell how many processes it started"
        fix = f"Set {size} to their number in the environment of each of them."
        raise fault(environ, (rank, size), problem, fix)


def numbered_otherwise(environ: Environ, rank: str) -> bool:
    """Whether RANK and WORLD_SIZE belong together, and to another process than this rank."""
    both = environ.get("RANK") and environ.get("WORLD_SIZE")
    return bool(both) and number(environ, "RANK") != number(environ, rank)


def shown(environ: Environ, names: Iterable[str]) -> str:
    """Variables and how their values begin, in words."""
    return ", ".join(f"{name}={environ[name]:.60}" for name in names)
