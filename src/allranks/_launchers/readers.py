"""What each launcher tells a process in its environment: one short reader for each launcher.

A reader returns the fields of this process's ``World``, or None where its launcher did not start
the process. It raises ``DetectionError`` where the launcher's variables are incomplete or
contradict each other. Readers are pure; ``_world`` holds their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypedDict

from allranks._launchers.hostlist import expand, expand_counts
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias, TypeVar

    Environ: TypeAlias = Mapping[str, str]
    T = TypeVar("T")


class Names(NamedTuple):
    """The variables in which a launcher gives a process's place; "" where it has none."""

    rank: str
    world_size: str
    local_rank: str = ""
    local_world_size: str = ""
    node_rank: str = ""
    num_nodes: str = ""
    master_addr: str = "MASTER_ADDR"
    master_port: str = "MASTER_PORT"


class _Required(TypedDict):
    rank: int
    world_size: int


class Fields(_Required, total=False):
    """The fields of a ``World``, without the launcher's name."""

    local_rank: int | None
    local_world_size: int | None
    node_rank: int | None
    num_nodes: int | None
    job: str
    notes: tuple[str, ...]
    hosts: tuple[str, ...]
    master_addr: str | None
    master_port: int | None
    agent_store: bool
    attempt: int
    store_path: str | None


TORCHRUN = Names(
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"
)
ALLRANKS = Names("ALLRANKS_RANK", "ALLRANKS_WORLD_SIZE", master_addr="", master_port="")
RAY = Names("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")
PALS = Names("PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PMI_LOCAL_SIZE", "PALS_NODEID")
PMIX = Names("PMIX_RANK", "WORLD_SIZE")
LSF = Names(
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_SIZE",
    "JSM_NAMESPACE_LOCAL_RANK",
    "JSM_NAMESPACE_LOCAL_SIZE",
)
# OMPI_COMM_WORLD_NODE_RANK is no node's number: it counts the ranks on a node.
OPENMPI = Names(
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
HYDRA = Names("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
PMI = Names("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")
FLUX = Names(
    "FLUX_TASK_RANK",
    "FLUX_JOB_SIZE",
    "FLUX_TASK_LOCAL_ID",
    num_nodes="FLUX_JOB_NNODES",
)
# The lists of ranks and of counts are parsed by the reader, for what their lengths tell.
SLURM = Names(
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_GTIDS",
    "SLURM_NODEID",
    "SLURM_STEP_TASKS_PER_NODE",
)
MAX_HET_GROUPS = 128
# The batch script, salloc's shell, the extern step: above slurm.h's SLURM_MAX_NORMAL_STEP_ID.
_STEPS_WITHOUT_TASKS = frozenset(map(str, range(0xFFFFFFF1, 0x100000000)))
_CONSISTENT = "Set them all as the launcher would, or unset them all."


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
        raise fault(environ, names, "The launcher's variables are incomplete", _CONSISTENT)


def place(
    environ: Environ,
    names: Names,
    *,
    local_world_size: int | None = None,
    num_nodes: int | None = None,
) -> Fields:
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
    here = Fields(
        rank=whole(environ, names.rank),
        world_size=whole(environ, names.world_size, 1),
        local_rank=_number(environ, names.local_rank),
        local_world_size=local_world_size or _number(environ, names.local_world_size, 1),
        node_rank=_number(environ, names.node_rank),
        num_nodes=num_nodes or _number(environ, names.num_nodes, 1),
        master_addr=environ.get(names.master_addr) or None,
        master_port=_port(environ, names.master_port),
    )
    for problem, at_fault in _contradictions(names, here):
        raise fault(environ, at_fault, problem, _CONSISTENT)
    one_host = here["num_nodes"] == 1 or here["local_world_size"] == here["world_size"]
    return on_one_host(here) if one_host else here


def _number(environ: Environ, name: str, least: int = 0) -> int | None:
    return whole(environ, name, least) if name in environ else None


def _port(environ: Environ, name: str) -> int | None:
    if not environ.get(name):
        return None
    port = whole(environ, name, 1)
    if port > 65535:
        raise fault(environ, (name,), f"{name} is no port", "Ports go from 1 to 65535.")
    return port


def _contradictions(names: Names, here: Fields) -> Iterator[tuple[str, tuple[str, ...]]]:
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
    if not _hosts_fit(size, on_this_host, nodes):
        known = ((names.local_world_size, on_this_host), (names.num_nodes, nodes))
        told = [name for name, value in known if name and value is not None]
        yield f"{' and '.join(told)} cannot make up {names.world_size}", (names.world_size, *told)
    if node and on_this_host == size:
        at_fault = (names.node_rank, names.local_world_size, names.world_size)
        yield f"{names.node_rank} is too large: all ranks are on one host", at_fault


def _hosts_fit(size: int, on_this_host: int | None, num_nodes: int | None) -> bool:
    """Whether so many hosts can hold so many ranks: each holds one at least."""
    if num_nodes == 1:
        return on_this_host in (None, size)
    return (on_this_host or 1) + (num_nodes or 1) - 1 <= size


def on_one_host(here: Fields) -> Fields:
    """Fill in what follows from all ranks being on one host."""
    if here.get("local_rank") is None:
        here["local_rank"] = here["rank"]
    here["local_world_size"] = here["world_size"]
    here["node_rank"], here["num_nodes"] = 0, 1
    return here


def _first_set(environ: Environ, *names: str) -> str:
    return next((name for name in names if name in environ), names[-1])


def joined(*parts: object) -> str:
    """A job's identity: what is known of these, joined by colons."""
    return ":".join(str(part) for part in parts if part)


def _parsed(environ: Environ, name: str, parse: Callable[[str], list[T]]) -> list[T]:
    try:
        return parse(environ[name])
    except ValueError as error:
        raise fault(environ, (name,), f"{name}: {error}", _CONSISTENT) from None


def read_allranks(environ: Environ) -> Fields | None:
    """``allranks run`` and the test pool: all ranks on this host, with a file to meet in."""
    if "ALLRANKS_RANK" not in environ and "ALLRANKS_WORLD_SIZE" not in environ:
        return None
    require(environ, *ALLRANKS[:2], "ALLRANKS_STORE", "ALLRANKS_RUN_ID")
    here = place(environ, ALLRANKS, num_nodes=1)
    here["store_path"] = environ["ALLRANKS_STORE"]
    here["job"] = joined("allranks", environ["ALLRANKS_RUN_ID"])
    return here


def read_torchrun(environ: Environ) -> Fields | None:
    """``torchrun`` and what is built on it; its groups are its agents, one for each host."""
    run = environ.get("TORCHELASTIC_RUN_ID")
    if not run:
        return None
    here = place(environ, TORCHRUN)
    here["agent_store"] = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    here["attempt"] = _number(environ, "TORCHELASTIC_RESTART_COUNT") or 0
    # Two runs may be given one id ("none" by default); their agents have addresses of their own.
    here["job"] = joined("torchrun", run, here["master_addr"], here["master_port"])
    return here


def in_ray_worker(environ: Environ) -> bool:
    """Whether a raylet started this process: it sets these two for its workers."""
    return "RAY_JOB_ID" in environ and "RAY_RAYLET_PID" in environ


def read_ray(environ: Environ) -> Fields | None:
    """Ray Train's workers; plain actors and tasks are given no rank."""
    # Not recorded: names from the source of Ray Train's TorchConfig and Ray's page on containers.
    if not in_ray_worker(environ) or not ("RANK" in environ or "WORLD_SIZE" in environ):
        return None
    here = place(environ, RAY)
    # RAY_JOB_ID is no identity: workers that Ray started in advance keep the nil id, ffffffff.
    here["job"] = joined("ray", here["master_addr"], here["master_port"])
    return here


def read_lsf(environ: Environ) -> Fields | None:
    """LSF's ``jsrun``."""
    # Not recorded: names from Lightning's LSFEnvironment page and Open MPI's JSM examples.
    if LSF.rank not in environ and LSF.world_size not in environ:
        return None
    here = place(environ, LSF)
    # One LSF job can hold several jsruns and, as an array, several elements.
    known = ("LSB_JOBID", "LSB_JOBINDEX", "PMIX_NAMESPACE")
    here["job"] = joined("lsf", *map(environ.get, known))
    return here


def read_openmpi(environ: Environ) -> Fields | None:
    """Open MPI's ``mpirun``."""
    if OPENMPI.rank not in environ and OPENMPI.world_size not in environ:
        return None
    here = place(environ, OPENMPI)
    if here.get("num_nodes") is None:
        # It counts the daemons, some of which may have no rank: believed only if it can be true.
        daemons = _number(environ, "OMPI_MCA_orte_num_nodes")
        on_this_host = here["local_world_size"]
        if daemons == 1 and on_this_host is None:
            here = on_one_host(here)
        elif daemons and daemons > 1 and _hosts_fit(here["world_size"], on_this_host, daemons):
            here["num_nodes"] = daemons
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid")
    here["job"] = joined("openmpi", job)
    return here


def read_hydra(environ: Environ) -> Fields | None:
    """MPICH's and Intel MPI's ``mpiexec``."""
    # Intel MPI not recorded: it is Hydra too, and oneCCL's torch bindings read these four names.
    if HYDRA.local_rank not in environ:
        return None
    return _read_pmi(environ, HYDRA)


def read_pmi(environ: Environ) -> Fields | None:
    """Any other PMI-1 launcher: the rank and the size are all that the protocol promises."""
    return None if "SLURM_JOB_ID" in environ else _read_pmi(environ, PMI)


def _read_pmi(environ: Environ, names: Names) -> Fields | None:
    if names.rank not in environ:
        return None
    here = place(environ, names)
    # Hydra says nothing that is the same on all hosts; an address given by the user is.
    address = environ.get("PMI_JOBID"), here["master_addr"], here["master_port"]
    here["job"] = joined("mpich", *address)
    return here


def read_flux(environ: Environ) -> Fields | None:
    """A task of ``flux run``; the shells of ``flux alloc`` and ``flux batch`` are none."""
    # Not recorded: names from flux-environment(7).
    if FLUX.rank not in environ and FLUX.world_size not in environ:
        return None
    here = place(environ, FLUX)
    here["job"] = joined("flux", environ.get("FLUX_JOB_ID"))
    return here


def in_slurm_step(environ: Environ) -> bool:
    """Whether srun started this process as a task."""
    return environ.get("SLURM_STEP_ID", "") not in ("", *_STEPS_WITHOUT_TASKS)


def read_slurm(environ: Environ) -> Fields | None:
    """A task of ``srun``, by the variables of its step; those of the job may tell another story."""
    if not in_slurm_step(environ):
        return None
    require(environ, "SLURM_JOB_ID", "SLURM_STEP_NODELIST", *SLURM[:6])
    # Slurm writes lists of ranks and of counts alike.
    ranks_here = _parsed(environ, "SLURM_GTIDS", expand_counts)
    counts = _parsed(environ, "SLURM_STEP_TASKS_PER_NODE", expand_counts)
    hosts = _parsed(environ, "SLURM_STEP_NODELIST", expand)
    counts = counts if sum(counts) == whole(environ, "SLURM_STEP_NUM_TASKS") else []
    names = SLURM if counts else SLURM._replace(num_nodes="")
    here = place(environ, names, local_world_size=len(ranks_here), num_nodes=len(counts) or None)
    _check_step(environ, ranks_here, counts, hosts)
    here["hosts"] = _hosts_of_rank_0(environ, hosts)
    here["attempt"] = _number(environ, "SLURM_RESTART_COUNT") or 0
    # A requeued job starts again at step 0 under the same job id.
    restart = f"restart{here['attempt']}" if here["attempt"] else ""
    step = f"{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    here["job"] = joined("slurm", environ.get("SLURM_CLUSTER_NAME"), step, restart)
    return here


def _check_step(
    environ: Environ, ranks_here: Sequence[int], counts: Sequence[int], hosts: Sequence[str]
) -> None:
    """Raise a ``DetectionError`` if the step's variables are leftovers of several steps."""
    at_fault: tuple[str, ...] = ()
    if ranks_here[whole(environ, "SLURM_LOCALID")] != whole(environ, "SLURM_PROCID"):
        at_fault = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_GTIDS")
    elif counts and counts[whole(environ, "SLURM_NODEID")] != len(ranks_here):
        at_fault = ("SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_GTIDS")
    elif environ.get("SLURMD_NODENAME", hosts[0]) not in hosts:
        at_fault = ("SLURMD_NODENAME", "SLURM_STEP_NODELIST")
    if at_fault:
        problem = "Slurm's variables contradict each other; some may be left over from another step"
        fix = "Start the program with srun, or unset SLURM_STEP_ID for a world of one."
        raise fault(environ, at_fault, problem, fix)


def _hosts_of_rank_0(environ: Environ, hosts: list[str]) -> tuple[str, ...]:
    if environ.get("SLURM_DISTRIBUTION", "").startswith("arbitrary"):
        return tuple(dict.fromkeys(hosts))
    groups = _number(environ, "SLURM_HET_SIZE") or 1
    if groups == 1:
        return tuple(hosts[:1])
    # A step starts on the lowest of the groups that it spans, wherever that stands in its list.
    firsts = (_first_host(environ, group) for group in range(min(groups, MAX_HET_GROUPS)))
    return tuple(dict.fromkeys([*(host for host in firsts if host in hosts), *hosts]))


def _first_host(environ: Environ, group: int) -> str | None:
    # PACK is what Slurm called het groups until version 20.
    name = _first_set(
        environ, f"SLURM_JOB_NODELIST_HET_GROUP_{group}", f"SLURM_JOB_NODELIST_PACK_GROUP_{group}"
    )
    return _parsed(environ, name, expand)[0] if name in environ else None


def read_pals(environ: Environ) -> Fields | None:
    """``mpiexec`` of HPE PALS, on Cray systems with PBS."""
    # Not recorded: names from Slurm's mpi/cray_shasta and Flux's cray-pals plugins, which set
    # what PALS sets; PALS_LOCAL_SIZE from scripts of Aurora's users.
    if PALS.rank not in environ or "SLURM_JOB_ID" in environ:
        return None
    size = _first_set(environ, "PMI_SIZE", "WORLD_SIZE")
    local_size = _first_set(environ, "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE")
    _require_size(environ, PALS.rank, size)
    here = place(environ, PALS._replace(world_size=size, local_world_size=local_size))
    here["job"] = joined("pals", environ.get("PALS_APID"))
    return here


def _require_size(environ: Environ, rank: str, size: str) -> None:
    if size not in environ:
        problem = "This launcher does not tell how many processes it started"
        fix = f"Set {size} to their number in the environment of each of them."
        raise fault(environ, (rank, size), problem, fix)


def read_pmix(environ: Environ) -> Fields | None:
    """A PMIx launcher that sets nothing else; it does not put the size in the environment."""
    # Not recorded alone: the PMIx standard has clients ask the server for the size.
    if not {"PMIX_RANK", "PMIX_NAMESPACE"} <= environ.keys() or "SLURM_JOB_ID" in environ:
        return None
    _require_size(environ, PMIX.rank, PMIX.world_size)
    here = place(environ, PMIX)
    here["job"] = joined("pmix", environ["PMIX_NAMESPACE"])
    return here


def read_kubernetes(environ: Environ) -> Fields | None:
    """One process in each pod of a PyTorchJob, a TrainJob, a JobSet or an Indexed Job."""
    # Not recorded: names from the Kubernetes page on Indexed Jobs, JobSet's examples, and the
    # sources of Kubeflow's training operator (PyTorchJob) and trainer (TrainJob).
    kubeflow = "PET_NODE_RANK" in environ and "KUBERNETES_SERVICE_HOST" in environ
    if "LOCAL_RANK" in environ or not (kubeflow or "JOB_COMPLETION_INDEX" in environ):
        return None  # with LOCAL_RANK, something inside the pod has numbered its processes
    names = Names(
        _first_set(environ, "RANK", "PET_NODE_RANK", "JOB_COMPLETION_INDEX"),
        _first_set(environ, "WORLD_SIZE", "PET_NNODES", "WORLD_SIZE"),
        master_addr=_first_set(environ, "MASTER_ADDR", "PET_MASTER_ADDR"),
        master_port=_first_set(environ, "MASTER_PORT", "PET_MASTER_PORT"),
    )
    indexed = names.rank == "JOB_COMPLETION_INDEX"
    if indexed and names.world_size not in environ and names.master_addr not in environ:
        return None  # the usual Indexed Job: its pods work each for itself
    if (processes := environ.get("PET_NPROC_PER_NODE", "1")).isdecimal() and processes != "1":
        problem = "This pod is to run several processes, and this one is not numbered"
        fix = "Start the script with torchrun, which reads the PET_ variables."
        raise fault(environ, ("PET_NPROC_PER_NODE",), problem, fix)
    return _pod(environ, names)


def _pod(environ: Environ, names: Names) -> Fields:
    here = place(environ, names, local_world_size=1)
    here["local_rank"] = 0
    here["node_rank"], here["num_nodes"] = here["rank"], here["world_size"]
    job: tuple[object, ...] = (here["master_addr"], here["master_port"])
    if not here["master_addr"] and names.rank == "JOB_COMPLETION_INDEX":
        # A pod of an Indexed Job is called after the job and its index.
        job = (environ.get("HOSTNAME", "").removesuffix("-" + environ[names.rank]),)
    here["job"] = joined("kubernetes", *job)
    return here
