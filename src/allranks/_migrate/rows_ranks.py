"""Rows: who a process is, who goes first, who prints, which seed."""

from __future__ import annotations

from allranks._migrate.row import Row

RANK = "dist.get_rank|call.*rank*|env.*RANK*|env.*PROCID*|env.*LOCALID*|mpi.*|hvd.*"
SIZE = "dist.get_world_size|call.*world_size*|env.*SIZE*|env.*NTASKS*|mpi.*|hvd.*"
MASTER = "rank==0|rank!=0|call.is_m*|call.is_rank*|call.is_primary*|call.is_global*|call.is_local*"
SAVE = "call.save|call.save_on_master|call.dump"
CONFIG = "args cfg config opt opts"

FACTS = (
    Row(
        "get_rank get_global_rank get_dist_rank global_rank dist_rank rank mpi_rank safe_get_rank",
        "get_rank",
        "allranks.get_rank()",
        "called before allranks.setup(), it gives the rank that the launcher has set, not 0",
        must=("returns", RANK),
        never="rank==0|returns.rank==0",
        alone=("returns.dist.get_rank",),
        may="dist.get_rank",
        patch=("return allranks.get_rank({group=})",),
        unused=CONFIG,
    ),
    Row(
        "get_world_size get_global_world_size get_dist_world_size world_size get_num_ranks "
        "mpi_size "
        "get_num_replicas get_global_size num_ranks get_dist_size get_num_processes",
        "get_world_size",
        "allranks.get_world_size()",
        "called before allranks.setup(), it gives the size that the launcher has set, not 1",
        must=("returns", SIZE),
        alone=("returns.dist.get_world_size",),
        may="dist.get_world_size",
        patch=("return allranks.get_world_size({group=})",),
        unused=CONFIG,
    ),
    Row(
        "get_data_parallel_rank get_model_parallel_rank get_tensor_model_parallel_rank "
        "get_tensor_parallel_rank get_pipeline_model_parallel_rank get_sequence_parallel_rank",
        "get_rank",
        "allranks.get_rank(group)",
        "group is a process group: make it by allranks.mesh or allranks.split",
        must=("returns", RANK, "group|call.*group*"),
        may="own-group",
    ),
    Row(
        "get_data_parallel_world_size get_model_parallel_world_size get_tensor_parallel_world_size "
        "get_tensor_model_parallel_world_size get_pipeline_model_parallel_world_size",
        "get_world_size",
        "allranks.get_world_size(group)",
        "group is a process group: make it by allranks.mesh or allranks.split",
        must=("returns", SIZE, "group|call.*group*"),
        may="own-group",
    ),
    Row(
        "get_local_rank local_rank get_local_process_index get_local_process_rank mpi_local_rank "
        "get_local_rank_preinit",
        "get_local_rank",
        "allranks.get_local_rank()",
        "needs no process group for each host; before allranks.setup(), it raises an error "
        "where the launcher does not tell it, and does not guess 0",
        must=("returns", f"{RANK}|returns:*LOCAL_RANK*|returns:*local_rank*"),
        patch=("return allranks.get_local_rank()",),
        unused=CONFIG,
        may="own-group",
    ),
    Row(
        "get_local_size get_local_world_size local_size get_num_gpus_per_node gpus_per_node "
        "get_node_size get_num_local_ranks",
        "get_local_world_size",
        "allranks.get_local_world_size()",
        "needs no process group for each host; before allranks.setup(), it raises an error "
        "where the launcher does not tell it, and does not guess 1",
        must=("returns", f"{SIZE}|returns:*LOCAL*SIZE*|returns:*local*size*"),
        patch=("return allranks.get_local_world_size()",),
        unused=CONFIG,
        may="own-group",
    ),
    Row(
        "get_node_rank get_machine_rank get_node_id get_host_rank node_rank machine_rank",
        "get_node_rank",
        "allranks.get_node_rank()",
        "allranks.setup() counts the hosts, in the order of their ranks; call it first",
        must=("returns", f"{RANK}|env.SLURM_NODEID"),
        patch=("return allranks.get_node_rank()",),
        unused=CONFIG,
    ),
    Row(
        "get_num_nodes get_num_machines get_nnodes num_nodes num_machines get_n_nodes",
        "get_num_nodes",
        "allranks.get_num_nodes()",
        "allranks.setup() counts the hosts; call it first",
        must=("returns", f"{SIZE}|env.*NODES*|env.*NNODES*"),
        patch=("return allranks.get_num_nodes()",),
        unused=CONFIG,
    ),
    Row(
        "get_dist_info get_rank_and_world_size get_rank_world_size get_rank_size dist_info",
        "get_dist_info",
        "rank, world_size = allranks.get_dist_info()",
        "called before allranks.setup(), it gives what the launcher has set, not rank 0 of 1",
        must=("returns", RANK, SIZE),
        patch=("return allranks.get_rank({group=}), allranks.get_world_size({group=})",),
        unused=CONFIG,
    ),
    Row(
        "world_info_from_env get_world_info get_env_ranks ranks_from_env",
        "detect",
        "world = allranks.detect(os.environ)",
        "where only some of the launcher's variables are set (RANK without WORLD_SIZE), it "
        "raises an error, and does not guess rank 0 of 1",
        must=("returns", "env.*RANK*", "env.*SIZE*"),
        patch=("return allranks.get_local_rank(), allranks.get_rank(), allranks.get_world_size()",),
        may="env.*",
    ),
    Row(
        "is_main_process is_master is_main is_primary is_root is_chief is_rank0 is_rank_zero "
        "is_master_process is_master_rank is_main_rank is_master_proc is_root_proc is_root_process "
        "is_primary_process is_global_primary is_global_master is_global_zero is_global_rank_zero "
        "is_dist_master is_first_rank is_rank_0 is_coordinator is_leader is_rank0_process "
        "is_main_rank is_mp_master is_distributed_main check_is_main_process is_main_worker",
        "is_master",
        "allranks.is_master()",
        "called before allranks.setup(), it goes by the rank that the launcher has set, and "
        "is not True on every rank",
        must=("returns", f"{MASTER}|call.*rank*"),
        alone=("returns.rank==0", "dist.get_rank|call.get_rank"),
        patch=(
            "return allranks.is_master()",
            "return (allranks.get_local_rank() if {local} else allranks.get_rank()) == 0",
            "return allranks.get_rank({group}) == 0",
        ),
        unused=CONFIG,
    ),
    Row(
        "is_local_main_process is_local_master is_local_primary is_local_zero is_local_rank_zero "
        "is_local_rank0 is_node_master is_local_main is_local_leader is_host_master",
        "get_local_rank",
        "allranks.get_local_rank() == 0",
        "before allranks.setup(), it raises an error where the launcher does not tell it",
        must=("returns", f"{MASTER}|call.*rank*"),
        patch=("return allranks.get_local_rank() == 0",),
        unused=CONFIG,
    ),
    Row(
        "is_last_rank is_last_process is_rank_last",
        "get_rank",
        "allranks.get_rank() == allranks.get_world_size() - 1",
        "",
        must=("returns", RANK, SIZE),
        patch=("return allranks.get_rank() == allranks.get_world_size() - 1",),
    ),
    Row(
        "is_dist_avail_and_initialized is_dist_initialized is_distributed is_initialized is_dist "
        "dist_is_initialized is_dist_available_and_initialized distributed_available is_dist_avail "
        "dist_initialized is_dist_available is_distributed_initialized distributed_is_initialized "
        "is_torch_distributed is_torch_dist_initialized is_ddp use_distributed has_distributed",
        "initialized",
        "allranks.initialized()",
        "",
        must=("returns", "dist.is_initialized|dist.is_available"),
        never="dist.init_process_group|dist.get_world_size|call.*world_size*|rank==0",
        alone=("returns.dist.is_initialized",),
        patch=("return allranks.initialized()",),
        unused=CONFIG,
    ),
    Row(
        "is_distributed_env is_using_distributed is_distributed is_using_horovod is_torchrun "
        "is_ddp "
        "is_distributed_training_run is_dist is_distributed_training "
        "is_launched_with_torchrun use_distributed is_distributed_run",
        "get_world_size",
        "allranks.get_world_size() > 1",
        "where only some of the launcher's variables are set, it raises an error; it knows "
        "other launchers, too",
        must=("returns", f"env.*SIZE*|env.*NTASKS*|env.*RANK*|{SIZE}"),
        never="dist.init_process_group",
        patch=("return allranks.get_world_size() > 1",),
        unused=CONFIG,
    ),
    Row(
        "infer_launcher get_launcher detect_launcher",
        "detect",
        "allranks.detect(os.environ).launcher",
        'the names that it gives are "torchrun", "slurm", "openmpi" and others, and "single" '
        "where there is no launcher: compare with these",
        must=("returns", "env.*"),
    ),
    Row(
        "dev get_device get_dist_device get_default_device current_device get_torch_device",
        "get_device_for_local_rank",
        "torch.device(allranks.get_device_for_local_rank())",
        'it has the number of this rank\'s device, as "cuda:1", and may be an XPU or MPS',
        must=("returns.call.device|returns.call.current_device",),
        never="call.to|rank==0|dist.get_backend",
        patch=("return {@torch}.device(allranks.get_device_for_local_rank())",),
    ),
    Row(
        "get_comm_device get_dist_device get_backend_device get_device_from_group",
        "",
        "",
        "delete it: allranks' collectives take tensors of any device, and move them as the "
        "backend needs",
        must=("returns", "dist.get_backend|call.get_backend"),
        never="returns.dist.get_backend",
        may="dist.*",
    ),
    Row(
        "cast_data_device get_data_device get_reduce_op _object_to_tensor _tensor_to_object "
        "serialize_to_tensor pad_to_largest_tensor get_default_group get_global_gloo_group "
        "get_global_group get_world_group get_gloo_group get_cpu_group get_default_process_group "
        "gather_object_sizes get_reduce_op_from_name",
        "",
        "",
        'delete it: in allranks\' calls group=None means all ranks, op is a word as "max", and'
        " objects need no conversion or padding",
        must=("returns",),
        may="own-group|dist.*",
    ),
)
"""Who is this process?"""

ORDER = (
    Row(
        "synchronize barrier sync dist_barrier wait_for_everyone synchronize_processes "
        "wait_for_all "
        "torch_barrier maybe_barrier distributed_barrier sync_processes global_barrier sync_all "
        "barrier_if_distributed safe_barrier block_all wait synchronise",
        "synchronize",
        "allranks.synchronize()",
        "where a rank has failed or does not come, it raises an error that names the rank, "
        "instead of waiting",
        must=("dist.barrier|dist.monitored_barrier|mpi.*|hvd.*|call.barrier",),
        never="yield|dist.all_gather*|dist.broadcast*|nested",
        alone=("dist.barrier|dist.monitored_barrier", "silent"),
        patch=("allranks.synchronize({?group})",),
        unused="timeout message name tag",
        may="dist.*barrier|dist.get_world_size",
    ),
    Row(
        "torch_distributed_zero_first local_main_process_first local_master_first local_zero_first "
        "local_rank_zero_first distributed_zero_first wait_for_the_master wait_for_local_master "
        "distributed_master_first zero_first local_leader_first",
        "master_first",
        'with allranks.master_first(per="node"): ...',
        "needs no argument; the other ranks of the host wait outside of any collective, so "
        "that no timeout ends them, however long it takes",
        must=("yield", "dist.barrier|call.*barrier*|call.synchronize"),
        patch=('with allranks.master_first(per="node"):\n    yield',),
        unused=f"{CONFIG} local_rank rank",
    ),
    Row(
        "main_process_first master_first rank_zero_first rank0_first global_zero_first "
        "main_first leader_first sequential_master_first",
        "master_first",
        "with allranks.master_first(): ...",
        "the other ranks wait outside of any collective, so that no timeout ends them, "
        "however long it takes",
        must=("yield", "dist.barrier|call.*barrier*|call.synchronize"),
        patch=("with allranks.master_first():\n    yield",),
        unused=f"{CONFIG} rank",
    ),
    Row(
        "master_only rank_zero_only main_process_only rank0_only only_on_master on_main_process "
        "run_on_main main_only master_process_only rank_0_only only_main_process is_master_only "
        "run_on_rank0 main_process rank0 only_rank0 on_rank0 rank_zero only_rank_zero zero_rank",
        "master_only",
        "@allranks.master_only",
        "",
        must=("nested", f"{MASTER}|call.get_dist_info"),
        never="print=|stdout=|yield",
        patch=("return allranks.master_only({func|fn|f|function|0})",),
    ),
    Row(
        "setup_for_distributed suppress_print disable_print silence_print setup_print "
        "setup_print_for_distributed suppress_output disable_printing redirect_print mute_print "
        "disable_non_master_print set_print override_print block_print print_only_on_master "
        "silence_non_master suppress_non_master_print restrict_print_to_main_process",
        "print_on_master",
        "allranks.print_on_master()",
        "needs no argument: it knows the rank; print(..., force=True) still prints on every rank; "
        "it puts no time before a line, and no number of ranks turns it off",
        must=("print=|stdout=",),
        never="dist.init_process_group",
        alone=("print=", "silent"),
        patch=("allranks.print_on_master()",),
        unused="is_master rank master is_main_process is_main is_rank0 is_rank_zero local_rank",
        may="print=|stdout=|dist.get_rank",
    ),
    Row(
        "print_rank_0 print_rank0 print0 print_master print_on_main print_once dist_print "
        "print_main "
        "master_print rank0_print rank_zero_print print_on_rank0 print_on_rank_0 main_print "
        "print_if_main print_only_rank0 print_main_process printer print_zero_rank mprint "
        "print_on_main_process rank_print synced_print print_on_master print_root dprint",
        "is_master",
        "if allranks.is_master(): print(message)",
        "or call allranks.print_on_master() once: then every plain print is heard from rank 0"
        " alone",
        must=("call.print", MASTER),
        never="print=|nested|dist.barrier",
        patch=(
            (
                "?prints-parameters if allranks.is_master():\n"
                "?prints-parameters     print({*args}{**kwargs})"
            ),
            (
                "?prints-parameters if allranks.is_master():\n"
                "?prints-parameters     print({0}{**kwargs})"
            ),
        ),
    ),
    Row(
        "print_rank_last print_last_rank print_rank_n",
        "get_rank",
        "if allranks.get_rank() == allranks.get_world_size() - 1: print(message)",
        "",
        must=("call.print",),
        patch=(
            (
                "?prints-parameters if allranks.get_rank() == allranks.get_world_size() - 1:\n"
                "?prints-parameters     print({0}{**kwargs})"
            ),
        ),
    ),
    Row(
        "log_rank_0 log_rank0 log_on_main log_dist log_on_master rank_zero_info rank_zero_warn "
        "rank_zero_debug logging_rank0 info_rank0 log_main rank_zero_log print_log log_on_rank0 "
        "log_once_on_master logger_info master_log mlog log_info rank0_log",
        "get_logger",
        "allranks.get_logger(__name__).info(message)",
        'get_logger(name, ranks=...) says whose messages are heard: "master", "all", or a '
        "tuple of ranks",
        must=("call.info|call.log|call.warning|call.warn|call.debug|call.error", MASTER),
        never="call.getLogger|nested",
    ),
    Row(
        "create_logger get_root_logger get_logger setup_logger init_logger setup_logging init_log "
        "get_dist_logger build_logger initialize_logger setup_default_logging make_logger "
        "set_logger "
        "init_logging configure_logging get_dist_root_logger create_dist_logger initialize_logging",
        "get_logger",
        "logger = allranks.get_logger(__name__)",
        "makes no handler and no file: add them as for any logger of Python's; "
        "allranks.RankFilter puts the rank into their lines",
        must=("call.getLogger|call.basicConfig|call.Logger", f"{MASTER}|{RANK}"),
    ),
    Row(
        "RankFilter DistributedFilter RankLogFilter RankZeroFilter MasterFilter DistFilter "
        "MainProcessFilter Rank0Filter",
        "RankFilter",
        "handler.addFilter(allranks.RankFilter())",
        "adds rank, world_size and host to each record, and lets all records pass",
        must=("base.Filter", f"{RANK}|rank==0|rank!=0"),
        kind="class",
    ),
)
"""Who goes first, and who is heard."""

SEEDS = (
    Row(
        "set_random_seed set_seed seed_everything init_seeds init_torch_seeds fix_random_seeds "
        "fix_seed fix_random_seed setup_seed set_seeds set_random_seeds seed_all manual_seed "
        "set_manual_seed set_global_seed random_seed fix_seeds set_rng_seed seed_all_rng "
        "set_all_seeds "
        "seed_torch setup_seeds init_random_seeds initialize_seeds fix_all_seeds",
        "seed_all",
        "allranks.seed_all(seed)",
        "the random numbers of a run change: each rank's are derived from seed and rank "
        "together, not from seed + rank; to keep the old numbers, keep torch.manual_seed(seed"
        " + allranks.get_rank()), which stays valid (and the same for random and numpy); "
        "per_rank=False gives all ranks the same numbers; cudnn's settings are not touched: "
        "set torch.backends.cudnn.deterministic yourself",
        must=("call.manual_seed|call.manual_seed_all|call.seed",),
        never="returns.call.*seed*|dist.broadcast|dist.all_gather*",
        may="dist.get_rank|env.*RANK*",
    ),
    Row(
        "worker_init_fn seed_worker worker_init worker_seed_fn init_worker worker_init_reset_seed "
        "seed_worker_fn worker_init_function dataloader_worker_init set_worker_seed "
        "_worker_init_fn",
        "worker_init_fn",
        "loader = DataLoader(data, worker_init_fn=allranks.worker_init_fn)",
        "the random numbers of the workers change: no two workers draw the same ones, on this"
        " rank or another; they follow from the seed that the DataLoader draws from torch's "
        "generator",
        must=(
            "call.manual_seed|call.seed|call.manual_seed_all|call.set_random_seed|call.seed_all*",
        ),
        patch=("allranks.worker_init_fn({worker_id|worker|0})",),
    ),
    Row(
        "shared_random_seed sync_random_seed get_shared_seed get_shared_random_seed "
        "init_random_seed "
        "shared_seed get_random_seed broadcast_seed sync_seed get_synced_seed generate_shared_seed",
        "shared_seed",
        "seed = allranks.shared_seed()",
        "a number below 2**63 that no seed set before has an influence on, so that it differs"
        " from run to run; numpy.random.seed takes less than 2**32: allranks.shared_seed() % "
        "2**32",
        must=("returns", "dist.broadcast*|dist.all_gather*|call.all_gather*|call.broadcast*"),
        never="call.manual_seed",
        patch=(
            "return allranks.shared_seed() % 2**31",
            "return allranks.shared_seed() % 2**31 if {seed} is None else {seed}",
            "return allranks.shared_seed(group={group}) % 2**31",
        ),
        unused="device",
        may="dist.broadcast*|dist.all_gather*",
    ),
)
"""Random numbers."""
