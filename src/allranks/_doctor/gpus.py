"""The GPUs that each rank sees; having none is no fault."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, at, first_of_hosts
from allranks._system.accelerator import accelerator_type, visible_devices
from allranks._system.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from allranks._doctor.checks import Place

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpus:
    """What a rank sees.

    Attributes:
        kind: "cuda", "xpu" and so on; "" without any.
        visible: how many it sees.
        own: the identity of the CUDA device that it uses, or "".
        of_driver: how many NVIDIA's driver shows on this host.
        has_cuda: whether this torch is built with CUDA.
        hidden: what CUDA_VISIBLE_DEVICES says; None where it is not set.
        pairs: how many pairs of those that it sees there are.
        peers: of how many the one can read the other's memory.
    """

    kind: str
    visible: int
    own: str
    of_driver: int
    has_cuda: bool
    hidden: str | None
    pairs: int = 0
    peers: int = 0


def own_gpus(own: str) -> Gpus:
    """What this process sees.

    Args:
        own: the identity of its CUDA device, or "".
    """
    import torch

    kind = accelerator_type() or ""
    visible = visible_devices(kind) if kind else 0
    pairs = list(combinations(range(visible), 2)) if kind == "cuda" else []
    return Gpus(
        kind,
        visible,
        own,
        len([one for one in Path("/dev").glob("nvidia[0-9]*") if one.name[6:].isdecimal()]),
        torch.version.cuda is not None,
        os.environ.get(VISIBLE),
        len(pairs),
        sum(torch.cuda.can_device_access_peer(one, other) for one, other in pairs),
    )


def gpu_rows(of: Mapping[Place, Gpus]) -> list[Check]:
    """A row for each fault; one on what is there where there is none."""
    return [*_unseen(of), *_shared(of), *_uneven(of)] or [_summary(of[min(of)])]


def _summary(first: Gpus) -> Check:
    if not first.visible:
        hidden = f"; {VISIBLE}={first.hidden!r}" if first.hidden is not None else ""
        return Check("GPUs", OK, f"none: the ranks use the CPU{hidden}")
    peers = f"; {first.peers} of {counted(first.pairs, 'pair')} read each other" * bool(first.pairs)
    return Check("GPUs", OK, f"{first.visible} {first.kind} visible to a rank{peers}")


def _unseen(of: Mapping[Place, Gpus]) -> Iterator[Check]:
    """Hosts with GPUs that torch cannot use, though nobody hides them."""
    hosts = [p for p in first_of_hosts(of) if of[p].of_driver and not of[p].visible]
    for place in (host for host in hosts if of[host].hidden is None):
        why = "does not open them" if of[place].has_cuda else "is built without CUDA"
        seen = f"the driver shows {of[place].of_driver}, and this torch {why}"
        remedy = "nvidia-smi" if of[place].has_cuda else "python -m pip install --force torch"
        yield at([place], Check("GPUs", WARNING, seen, remedy))


def _shared(of: Mapping[Place, Gpus]) -> Iterator[Check]:
    users: dict[tuple[int, str], list[Place]] = defaultdict(list)
    for place in sorted(of):
        if of[place].own:
            users[place.node, of[place].own].append(place)
    for (_, uuid), places in users.items():
        if len(places) > 1:
            seen = f"all use the same GPU, {uuid}; NCCL refuses that"
            yield at(places, Check("GPUs", FAILURE, seen, f"unset {VISIBLE}"))


def _uneven(of: Mapping[Place, Gpus]) -> Iterator[Check]:
    hosts: dict[tuple[str, int], list[Place]] = defaultdict(list)
    for place in first_of_hosts(of):
        hosts[of[place].kind, of[place].visible].append(place)
    for (_, visible), places in list(hosts.items())[1:]:
        first = of[min(of)].visible
        seen = f"{visible} visible to a rank, and {first} to rank {min(of).rank}"
        yield at(places, Check("GPUs", WARNING, seen, f"unset {VISIBLE}"))
