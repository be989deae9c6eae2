"""The figures of a run, as they are written to a file and read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from allranks._system.typed_json import MalformedError, parsed
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """One call at one size. In each turn the slowest rank counts.

    Attributes:
        seconds: the median of the turns.
        low: a quarter of the turns took less.
        high: a quarter of the turns took more.
        algbw: the algorithm bandwidth, in GB/s.
        busbw: the bus bandwidth, in GB/s.
    """

    seconds: float
    low: float
    high: float
    algbw: float
    busbw: float


@dataclass(frozen=True)
class Row:
    """One collective at one size.

    Attributes:
        collective: its name.
        bytes: its size, as nccl-tests count it.
        ours: the call of allranks.
        torchs: the call of ``torch.distributed``; None where the backend does not have it.
        ratio: the median of torch's time by ours, within a turn: above 1, ours is faster.
        note: why torch's is missing, or "".
    """

    collective: str
    bytes: int
    ours: Timing
    torchs: Timing | None
    ratio: float | None
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """From one rank to another.

    Attributes:
        source: the rank that sends.
        target: the rank that receives, and answers.
        latency: half of a round trip of a small message, in seconds.
        bandwidth: of a large message, until its answer is back, in GB/s.
    """

    source: int
    target: int
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class PairMatrix:
    """Every rank to every other, or some ranks of each host.

    Attributes:
        ranks: the ranks that were measured.
        small: bytes of the message of a latency.
        large: bytes of the message of a bandwidth.
        pairs: both directions of each pair.
    """

    ranks: tuple[int, ...]
    small: int
    large: int
    pairs: tuple[Pair, ...]

    @property
    def slowest(self) -> Pair:
        """The pair of the lowest bandwidth."""
        return min(self.pairs, key=lambda pair: pair.bandwidth)

    @property
    def latest(self) -> Pair:
        """The pair of the highest latency."""
        return max(self.pairs, key=lambda pair: pair.latency)


@dataclass(frozen=True)
class Setting:
    """Where a run was made.

    Attributes:
        allranks: the version of allranks.
        torch: the version of torch.
        launcher: what started the ranks.
        backend: torch's backend that moved the tensors.
        device: the type of device on which they lay.
        hosts: the host's name, by rank.
        nodes: the host's number, by rank.
    """

    allranks: str
    torch: str
    launcher: str
    backend: str
    device: str
    hosts: tuple[str, ...]
    nodes: tuple[int, ...]

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return len(self.hosts)

    def ranks_by_host(self) -> list[list[int]]:
        """The ranks of each host, in the order of the hosts."""
        ranks: dict[int, list[int]] = {}
        for rank, node in enumerate(self.nodes):
            ranks.setdefault(node, []).append(rank)
        return [ranks[node] for node in sorted(ranks)]


@dataclass(frozen=True)
class Report:
    """A run.

    Attributes:
        setting: where it was made.
        began: when, in seconds since 1970.
        rows: the collectives.
        pairs: the pairs, where they were measured.
        notes: what was left out, and why.
    """

    setting: Setting
    began: float
    rows: tuple[Row, ...]
    pairs: PairMatrix | None
    notes: tuple[str, ...]


def read_report(path: Path) -> Report:
    """The report of an earlier run.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        return parsed(Report, path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except MalformedError as error:
        raise ConfigError(
            f"{path} was not written by `allranks bench --json`, or not whole: {error}"
        ) from error
