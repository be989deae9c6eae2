"""The variables of torch's ``env://``, set by the user or by a launcher unknown here.

After all launchers, which say more. Source: torch.distributed's page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, fault, joined, on_one_host, place, whole
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_WORLD_SIZE"
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def read(environ: Environ) -> WorldFields | None:
    """The variables of torch's ``env://``, set by the user or by a launcher unknown here."""
    numbered = "RANK" in environ or "LOCAL_RANK" in environ
    if not numbered and ("WORLD_SIZE" not in environ or whole(environ, "WORLD_SIZE", 1) == 1):
        return None
    _check_complete(environ)
    names = NAMES if NAMES.node_rank in environ else NAMES._replace(node_rank="GROUP_RANK")
    here = place(environ, names)
    unknown = not (here["local_world_size"] or here["num_nodes"] or here["node_rank"])
    if unknown and here["master_addr"] in LOOPBACK:
        here = on_one_host(here)
    here["job"] = joined("env", here["master_addr"], here["master_port"])
    return here


def _check_complete(environ: Environ) -> None:
    """RANK without WORLD_SIZE, or an address without its port, is a mistake and no world of one."""
    pairs = (("RANK", "WORLD_SIZE"), ("MASTER_ADDR", "MASTER_PORT"))
    missing = [name for name in pairs[0] if not environ.get(name)]
    if len({bool(environ.get(name)) for name in pairs[1]}) == 2:
        missing += [name for name in pairs[1] if not environ.get(name)]
    if missing:
        seen = [name for name in (*pairs[0], "LOCAL_RANK", *pairs[1]) if name in environ]
        raise fault(
            environ,
            dict.fromkeys([*seen, *missing]),
            f"{' and '.join(missing)} must be set too, and not be empty",
            "Start the script with `allranks run`, torchrun, srun or mpirun, which set them all, "
            "or unset them all for a world of one.",
        )


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return process.variables(NAMES)


READER = Reader(
    "env",
    read,
    simulate,
    NAMES[:2],
    prefixes=("RANK", "WORLD_SIZE", "MASTER_"),
)
