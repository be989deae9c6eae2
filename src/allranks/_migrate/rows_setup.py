"""Rows: how the process group comes up, its parts, and how it goes."""

from __future__ import annotations

from allranks._migrate.row import Row
from allranks._migrate.rows_ranks import CONFIG, RANK

SETUP = (
    Row(
        "init_distributed_mode init_distributed setup_distributed setup_dist init_dist dist_init "
        "init_dist_pytorch init_dist_slurm init_dist_mpi ddp_setup setup_ddp init_ddp setup "
        "init_process_group init enable initialize_distributed distributed_init "
        "init_distributed_device "
        "init_distributed_device_so init_distributed_training init_process init_processes "
        "initialize_dist initialize_process_group setup_process_group setup_slurm init_slurm "
        "init_torch_distributed dist_setup init_environ start_process_group setup_env_distributed "
        "init_distributed_environment setup_distributed_training init_distributed_mode_ssh "
        "distributed_setup slurm_init initialize_torch_distributed init_distributed_process_group "
        "init_distributed_context init_comm init_dist_torchrun synchronize_init ddp_init "
        "init_distributed_slurm dist_init_slurm init_dist_env _initialize_distributed "
        "init_dist_ddp",
        "setup",
        "allranks.setup()",
        "needs no argument: it finds the launcher, the rank and the address by itself, and "
        "the backend by the device; timeout=30 means 30 minutes",
        must=("dist.init_process_group|call.init_process_group|call.init_distributed",),
        alone=("dist.init_process_group", "silent"),
        patch=(
            (
                "allranks.setup({?rank}{?world_size}{?distributed_backend:backend|dist_backend}"
                "{**kwargs})\n"
                "{@attributes}\n"
                "?print= allranks.print_on_master()\n"
                "?returns:device|returns.call.device return "
                "{@torch}.device(allranks.get_device_for_local_rank())\n"
                "?returns:rank,world_size return allranks.get_rank(), allranks.get_world_size()\n"
                "?returns:world_size,rank|returns:total_gpus,rank return "
                "allranks.get_world_size(), allranks.get_rank()"
            ),
        ),
        unused=f"{CONFIG} launcher port tcp_port local_rank dist_url init_method "
        "master_port master_addr gpu",
        may="dist.*|env.*|mpi.*|print=|own-group",
    ),
    Row(
        "distributed_worker distributed_main dist_worker ddp_worker mp_worker spawn_worker",
        "setup",
        "allranks.setup()",
        "only the lines that set up the group go; the rest of the function stays, and "
        "allranks.launch starts it on each rank",
        must=("dist.init_process_group|call.*init*",),
        may="dist.*|env.*",
    ),
    Row(
        "infer_init_method infer_slurm_init get_init_method get_dist_url get_dist_init_method "
        "get_master_addr get_master_ip get_slurm_master parse_slurm_nodelist set_master_addr",
        "setup",
        "allranks.setup()",
        "setup finds the address of rank 0 by itself, so that this is no longer needed",
        must=("env.*",),
        never="dist.init_process_group",
        may="env.*",
    ),
    Row(
        "find_free_port get_free_port find_port get_open_port free_port pick_free_port "
        "get_random_port find_unused_port find_available_port get_available_port",
        "setup",
        "allranks.setup()",
        "setup finds a free port by itself, so that this is no longer needed",
        must=("call.bind|call.connect_ex|call.randint|call.socket",),
    ),
    Row(
        "cleanup cleanup_distributed destroy_process_group destroy cleanup_ddp dist_cleanup "
        "cleanup_dist shutdown_distributed ddp_cleanup shutdown teardown teardown_distributed "
        "clean_up destroy_distributed finalize_distributed close_distributed deinit_distributed",
        "cleanup",
        "allranks.cleanup()",
        "may be called where nothing was set up; puts back the environment variables that "
        "setup has set",
        must=("dist.destroy_process_group|call.destroy_process_group",),
        never="dist.init_process_group",
        alone=("dist.destroy_process_group", "silent"),
        patch=("allranks.cleanup()",),
    ),
    Row(
        "launch spawn run_distributed launch_job launch_distributed call_main spawn_processes "
        "launch_dist run_ddp run_demo start_processes run_parallel mp_spawn launch_mp",
        "launch",
        "results = allranks.launch(fn, ranks=N)",
        "starts ranks on this host only; fn gets no rank as first argument (it asks "
        "allranks.get_rank()); returns a list of what each rank returned",
        must=("call.spawn|call.start_processes|call.Process",),
        may="dist.*|env.*",
    ),
    Row(
        "create_local_process_group init_local_group get_local_process_group get_local_group "
        "get_node_group get_intra_node_group create_node_group get_local_pg",
        "node_group",
        "group = allranks.node_group()",
        "the first call makes the group, so that all ranks have to make it",
        must=("group|dist.new_group|dist.new_subgroups",),
        may="dist.new_*|own-group",
    ),
    Row(
        "new_groups new_group create_group make_group split_group create_process_group get_group "
        "create_subgroup create_groups simple_group_split build_groups get_process_group",
        "split",
        "group = allranks.split(color)",
        "every rank calls it, with a number: ranks with the same number form a group",
        must=("dist.new_group|dist.new_subgroups*|dist.split_group",),
        may="dist.new_*|own-group",
    ),
    Row(
        "get_data_parallel_group get_model_parallel_group get_tensor_model_parallel_group "
        "get_tensor_parallel_group get_pipeline_model_parallel_group initialize_model_parallel "
        "get_sequence_parallel_group get_context_parallel_group initialize_sequence_parallel",
        "mesh",
        'mesh = allranks.mesh({"data": N, "model": M})',
        'a group is mesh["data"] or mesh["model"], in place of one function for each',
        must=("group|dist.new_group|call.*group*",),
        may="dist.*|own-group",
    ),
    Row(
        "set_device set_cuda_device set_gpu bind_device setup_device",
        "assign_device_for_local_rank",
        "allranks.assign_device_for_local_rank(False, allranks.get_local_rank())",
        "allranks.setup() does it, so that the line is seldom needed; where a host has fewer "
        "devices than ranks, it raises an error",
        must=("call.set_device", f"{RANK}|rank==0"),
    ),
)
"""How the group comes up, and goes."""
