"""The table: all rows, the names of allranks that they use, and what to write for single calls."""

from __future__ import annotations

from allranks._migrate.rows_classes import FILES, LAYERS, METERS
from allranks._migrate.rows_data import GATHERINGS, REDUCTIONS, TRANSFERS
from allranks._migrate.rows_ranks import FACTS, ORDER, SEEDS, SETUP

SECTIONS = (
    ("Who is this process?", FACTS),
    ("The process group", SETUP),
    ("Who goes first, who is heard", ORDER),
    ("Random numbers", SEEDS),
    ("Data combined", REDUCTIONS),
    ("Data brought together", GATHERINGS),
    ("Data sent", TRANSFERS),
    ("Under autograd", LAYERS),
    ("Meters", METERS),
    ("Files and data sets", FILES),
)

ROWS = tuple(row for _, rows in SECTIONS for row in rows)

CALLS = (
    ("dist.init_process_group", "allranks.setup()"),
    ("dist.destroy_process_group", "allranks.cleanup()"),
    ("dist.is_initialized", "allranks.initialized()"),
    ("dist.get_rank", "allranks.get_rank()"),
    ("dist.get_world_size", "allranks.get_world_size()"),
    ("dist.barrier", "allranks.synchronize()"),
    ("dist.monitored_barrier", "allranks.synchronize()"),
    ("dist.all_reduce", "allranks.all_reduce(tensor)"),
    ("dist.reduce", "allranks.reduce(tensor, dst=0)"),
    ("dist.all_gather", "allranks.all_gather(tensor)"),
    ("dist.all_gather_into_tensor", "allranks.all_gather(tensor, cat=True)"),
    ("dist.all_gather_object", "allranks.all_gather_objects(obj)"),
    ("dist.gather", "allranks.gather(tensor, dst=0)"),
    ("dist.gather_object", "allranks.gather_objects(obj, dst=0)"),
    ("dist.broadcast", "allranks.broadcast(tensor, src=0)"),
    ("dist.broadcast_object_list", "allranks.broadcast_object_list(objects, src=0)"),
    ("dist.scatter_object_list", "allranks.scatter_objects(each, src=0)"),
    ("dist.reduce_scatter", "allranks.reduce_scatter(parts)"),
    ("dist.reduce_scatter_tensor", "allranks.reduce_scatter(tensor)"),
    ("dist.all_to_all", "allranks.all_to_all(parts)"),
    ("dist.send", "allranks.send(tensor, dst)"),
    ("dist.recv", "allranks.recv(src)"),
    ("dist.new_group", "allranks.split(color)"),
    ("dist.nn.all_gather", "allranks.autograd.all_gather(tensor)"),
    ("dist.nn.all_reduce", "allranks.autograd.all_reduce(tensor)"),
    ("env.RANK", "allranks.get_rank()"),
    ("env.WORLD_SIZE", "allranks.get_world_size()"),
    ("env.LOCAL_RANK", "allranks.get_local_rank()"),
    ("env.LOCAL_WORLD_SIZE", "allranks.get_local_world_size()"),
    ("env.SLURM_PROCID", "allranks.get_rank()"),
    ("env.SLURM_LOCALID", "allranks.get_local_rank()"),
    ("env.SLURM_NTASKS", "allranks.get_world_size()"),
    ("env.SLURM_NODEID", "allranks.get_node_rank()"),
    ("env.OMPI_COMM_WORLD_RANK", "allranks.get_rank()"),
    ("env.OMPI_COMM_WORLD_SIZE", "allranks.get_world_size()"),
    ("env.OMPI_COMM_WORLD_LOCAL_RANK", "allranks.get_local_rank()"),
    ("env.MASTER_ADDR", "allranks.setup()"),
    ("env.MASTER_PORT", "allranks.setup()"),
    ("print=", "allranks.print_on_master()"),
)
"""Single calls and variables, for code in no function that is known as a whole."""

OURS = (
    "RankFilter ShardSampler agree all_gather all_gather_objects all_reduce all_to_all "
    "assign_device_for_local_rank autograd.all_gather autograd.all_reduce autograd.all_to_all "
    "autograd.broadcast autograd.reduce_scatter average_buffers broadcast broadcast_object "
    "broadcast_object_list check_same cleanup detect gather gather_objects gather_shards "
    "get_device_for_local_rank get_dist_info get_local_rank get_local_world_size get_logger "
    "get_node_rank get_num_nodes get_rank get_world_size initialized is_master launch master_first "
    "master_only mesh meters.MetricLogger meters.SmoothedValue node_group on_master "
    "print_on_master recv reduce reduce_scatter save scatter_objects seed_all send setup shard "
    "shared_seed split sync_module synchronize worker_init_fn"
).split()
"""The names of allranks that the rows use."""
