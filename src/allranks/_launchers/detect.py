"""Who this process is: ``detect(environ) -> World``, a pure function of the environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from allranks._launchers import job_ports, readers
from allranks._launchers.readers import Fields, Names, fault, joined, on_one_host, place, whole
from allranks._system import sockets
from allranks._system.graph_breaks import outside_graphs
from allranks._system.untrusted import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from allranks._launchers.readers import Environ
    from allranks.errors import DetectionError

Launcher = Literal[
    "allranks",
    "torchrun",
    "openmpi",
    "mpich",
    "pmix",
    "flux",
    "pals",
    "lsf",
    "slurm",
    "ray",
    "kubernetes",
    "env",
    "single",
]


@dataclass(frozen=True)
class World:
    """One process's place among all processes of its job, as its launcher tells it.

    Attributes:
        launcher: what started this process.
        rank: this process's number in the job, from 0 to ``world_size - 1``.
        world_size: how many processes the job has.
        local_rank: this process's number on its host; None where the launcher does not say
            (``setup`` then counts the ranks that share a host).
        local_world_size: how many of the job's processes run on this host, or None.
        node_rank: this host's number in the job, or None.
        num_nodes: how many hosts the job has, or None.
        job: identifies the job: equal on all its ranks, different on other jobs' where the
            launcher or the user (in ALLRANKS_JOB) gives anything to tell them apart.
        notes: sentences for people: what was ignored and why, what to do for more ranks.
        hosts: where rank 0 may run, likeliest first; empty where the launcher does not say.
        master_addr: the address that the environment gives for rank 0, or None.
        master_port: the port that the environment gives for rank 0, or None.
        agent_store: whether ``master_addr:master_port`` is a store that torchrun's agent keeps.
        attempt: how often the launcher restarted the job before this run.
        store_path: the file that ``allranks run`` made for its ranks to meet in, or None.
    """

    launcher: Launcher
    rank: int
    world_size: int
    local_rank: int | None = None
    local_world_size: int | None = None
    node_rank: int | None = None
    num_nodes: int | None = None
    job: str = ""
    notes: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    master_addr: str | None = None
    master_port: int | None = None
    agent_store: bool = False
    attempt: int = 0
    store_path: str | None = None

    def environ(self, port_range: range | None = None) -> dict[str, str]:
        """The variables in which torchrun would tell other programs this place.

        Args:
            port_range: the ports of which MASTER_PORT may be one, where the launcher gives none;
                None for any.

        Returns:
            What is known of RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK and
            NODE_RANK, GROUP_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. A port that the launcher
            does not give follows from the job's identity, and is the same on all its ranks. The
            two about rank 0 are left out where nothing tells on which host it runs.
        """
        address = self._address_of_0()
        values = {
            "RANK": self.rank,
            "WORLD_SIZE": self.world_size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_WORLD_SIZE": self.local_world_size,
            "GROUP_RANK": self.node_rank,
            "NODE_RANK": self.node_rank,
            "GROUP_WORLD_SIZE": self.num_nodes,
            "MASTER_ADDR": address,
            "MASTER_PORT": self._port_of_0(port_range) if address else None,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    def _address_of_0(self) -> str | None:
        if self.master_addr:
            return self.master_addr
        if self.num_nodes == 1:
            return sockets.LOOPBACK
        return self.hosts[0] if len(self.hosts) == 1 else None

    def _port_of_0(self, port_range: range | None) -> int:
        if self.master_port:
            return self.master_port
        alone = self.world_size == 1  # Any two such jobs have the same identity.
        return sockets.free_port() if alone else job_ports.own(self.job, port_range)


ENV = Names("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_WORLD_SIZE")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def read_env(environ: Environ) -> Fields | None:
    """The variables of torch's ``env://``, set by the user or by a launcher unknown here."""
    numbered = "RANK" in environ or "LOCAL_RANK" in environ
    if not numbered and ("WORLD_SIZE" not in environ or whole(environ, "WORLD_SIZE", 1) == 1):
        return None
    _check_complete(environ)
    names = ENV if ENV.node_rank in environ else ENV._replace(node_rank="GROUP_RANK")
    here = place(environ, names)
    unknown = not (here["local_world_size"] or here["num_nodes"] or here["node_rank"])
    if unknown and here["master_addr"] in LOOPBACK:
        here = on_one_host(here)
    here["job"] = joined("env", here["master_addr"], here["master_port"])
    return here


def _check_complete(environ: Environ) -> None:
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


def read_nothing(environ: Environ) -> Fields:
    """No launcher: a world of one, with notes on what looks like more."""
    here = on_one_host(Fields(rank=0, world_size=1))
    here["job"] = "single"
    here["notes"] = tuple(_hints(environ))
    return here


def _hints(environ: Environ) -> Iterator[str]:
    if environ.get("SLURM_JOB_ID") and not readers.in_slurm_step(environ):
        count = f", {environ['SLURM_NTASKS']} in all" if "SLURM_NTASKS" in environ else ""
        yield (
            f"In Slurm job {environ['SLURM_JOB_ID']}, but not started by srun: a world of one. "
            f"`srun python ...` would start the job's tasks{count}."
        )
    if "JOB_COMPLETION_INDEX" in environ:
        yield (
            f"JOB_COMPLETION_INDEX={environ['JOB_COMPLETION_INDEX']}, but nothing tells how many "
            "pods there are: a world of one. Set WORLD_SIZE to the Job's completions for more."
        )
    if readers.in_ray_worker(environ):
        yield (
            "A Ray worker without RANK: a world of one. Ray Train's workers have it; for actors of "
            "your own, set RANK and WORLD_SIZE."
        )
    address = [name for name in ("MASTER_ADDR", "MASTER_PORT") if environ.get(name)]
    if address:
        yield f"Ignored {_shown(environ, address)}: no RANK and WORLD_SIZE, a world of one."


class Row(NamedTuple):
    """One launcher.

    Attributes:
        name: its name.
        read: its reader, which returns None where it did not start the process.
        variables: those that tell most. The first is set wherever the launcher left any.
        brings: the launchers whose variables it sets too.
    """

    name: Launcher
    read: Callable[[Environ], Fields | None]
    variables: tuple[str, ...] = ()
    brings: tuple[Launcher, ...] = ()

    @property
    def takes_rank(self) -> bool:
        """Whether it numbers processes in RANK, which for others is a second opinion."""
        return "RANK" in self.variables

    @property
    def reason(self) -> str:
        """Why others were ignored."""
        if self.name == "env":
            return "RANK and WORLD_SIZE say who this process is"
        return f"{self.name} started this process"

    def left_traces(self, environ: Environ) -> bool:
        """Whether its variables are set, by whichever ancestor of this process."""
        return bool(self.variables) and self.variables[0] in environ


# The innermost launcher wins, because a launcher's variables leak into all that its processes
# start: torchrun's agents are started by srun or mpirun, mpirun by a batch script or by srun.
# - allranks and torchrun start their ranks themselves, so nothing stands between.
# - Ray Train numbers its workers in the worker; their raylet may be a task of any launcher below.
# - jsrun sets OMPI_* as well, so it stands before Open MPI.
# - MPI's launchers start their daemons through srun: SLURM_* are then those of the daemons.
# - Flux clears SLURM_* and PMI_* and may set PALS_*, srun may set PALS_*, PMI_* and PMIX_*
#   (--mpi=cray_shasta, pmi2, pmix): what is only a protocol is believed after who speaks it.
# - Kubernetes starts the container that everything else runs in.
LAUNCHERS = (
    Row("allranks", readers.read_allranks, ("ALLRANKS_RUN_ID", *readers.ALLRANKS[:2])),
    Row("torchrun", readers.read_torchrun, ("TORCHELASTIC_RUN_ID", *readers.TORCHRUN[:2])),
    Row("ray", readers.read_ray, ("RAY_JOB_ID", *readers.RAY[:2])),
    Row("lsf", readers.read_lsf, readers.LSF[:2], ("openmpi", "mpich", "pmix")),
    Row("openmpi", readers.read_openmpi, readers.OPENMPI[:2], ("pmix",)),
    Row("mpich", readers.read_hydra, ("MPI_LOCALRANKID", *readers.HYDRA[:2]), ("pmix",)),
    Row("flux", readers.read_flux, readers.FLUX[:2], ("pals", "mpich", "pmix")),
    Row(
        "slurm",
        readers.read_slurm,
        ("SLURM_JOB_ID", *readers.SLURM[:2]),
        ("pals", "mpich", "pmix"),
    ),
    Row("pals", readers.read_pals, ("PALS_RANKID",), ("mpich", "pmix")),
    Row("mpich", readers.read_pmi, readers.PMI[:2], ("pmix",)),
    Row("pmix", readers.read_pmix, ("PMIX_RANK", "PMIX_NAMESPACE")),
    Row("kubernetes", readers.read_kubernetes, ("JOB_COMPLETION_INDEX", *readers.RAY[:2])),
    Row("env", read_env, ENV[:2]),
    Row("single", read_nothing),
)


@outside_graphs
def detect(environ: Environ, *, ignore: Collection[str] = ()) -> World:
    """Find out from the environment alone who this process is. Pure; not collective.

    Args:
        environ: the environment, such as ``os.environ``.
        ignore: names of launchers not to believe, whatever the environment says.

    Returns:
        This process's place, as the innermost launcher tells it; a world of one if none does.

    Raises:
        DetectionError: an environment is incomplete, or two contradict each other: which
            variables, the values seen, and the fix.
    """
    # A path is opened as it stands.
    environ = {k: v if k == "ALLRANKS_STORE" else plain(v) for k, v in environ.items()}
    row, here = _innermost(environ, ignore)
    if "env" not in ignore and _outnumbered(row, here, environ):
        row, here = _innermost(environ, {row.name for row in LAUNCHERS if not row.takes_rank})
    world = World(row.name, **here)
    notes = (*world.notes, *_leftovers(row, environ, ignore))
    return replace(world, job=joined(world.job, environ.get("ALLRANKS_JOB")), notes=notes)


def told_by(launcher: str) -> list[str]:
    """The variables from which a launcher is recognised, without repetition."""
    rows = (row for row in LAUNCHERS if row.name == launcher)
    return list(dict.fromkeys(name for row in rows for name in row.variables))


def _innermost(environ: Environ, ignore: Collection[str]) -> tuple[Row, Fields]:
    for row in LAUNCHERS:
        here = None if row.name in ignore else row.read(environ)
        if here is not None:
            return row, here
    return LAUNCHERS[-1], read_nothing(environ)


def _outnumbered(row: Row, here: Fields, environ: Environ) -> bool:
    """Whether RANK and WORLD_SIZE number the children of a launcher's only process.

    Raises:
        DetectionError: something contradicts a launcher of several processes.
    """
    if row.takes_rank or row.name == "single":
        return False
    said = {"RANK": here["rank"], "WORLD_SIZE": here["world_size"]}
    given = [name for name in said if environ.get(name)]
    strange = [name for name in given if whole(environ, name) != said[name]]
    if here["world_size"] == 1 and len(given) == 2:
        return bool(strange)
    if strange:
        fix = "Unset those that are not about this process, or set RANK and WORLD_SIZE to agree"
        ignoring = ", or call setup(submit=False) to ignore Slurm" if row.name == "slurm" else ""
        raise _contradiction(row, here, environ, strange, f"{fix}{ignoring}.")
    if here["world_size"] > 1 and readers.in_ray_worker(environ):
        fix = "This may be its raylet's rank: set RANK and WORLD_SIZE in the Ray worker."
        raise _contradiction(row, here, environ, ("RAY_JOB_ID", "RAY_RAYLET_PID"), fix)
    return False


def _contradiction(
    row: Row, here: Fields, environ: Environ, strange: Iterable[str], fix: str
) -> DetectionError:
    said = f"{row.name} says rank {here['rank']} of {here['world_size']}"
    names = (*row.variables, *strange)
    return fault(environ, names, f"{said}, and {' and '.join(strange)} another thing", fix)


def _leftovers(chosen: Row, environ: Environ, ignore: Collection[str]) -> Iterator[str]:
    """A sentence on each launcher whose variables are there and are not believed."""
    silent = {chosen.name, *chosen.brings, "env"}
    for row in LAUNCHERS:
        if row.name in silent or not row.left_traces(environ):
            continue
        if row.name in ignore or chosen.name != "single":
            silent |= {row.name, *row.brings}
            left = [name for name in row.variables if name in environ and name not in ENV]
            why = "asked to" if row.name in ignore else chosen.reason
            yield f"Ignored {_shown(environ, left)} ({row.name}): {why}."


def _shown(environ: Environ, names: Iterable[str]) -> str:
    return ", ".join(f"{name}={environ[name]:.60}" for name in names)
