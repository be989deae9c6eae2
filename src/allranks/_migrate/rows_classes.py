"""Rows: layers of autograd, meters, files and data sets: what ranks share beside collectives."""

from __future__ import annotations

from allranks._migrate.row import Row
from allranks._migrate.rows_data import GATHER, GRAD_NAMES
from allranks._migrate.rows_ranks import MASTER, RANK, SAVE

LAYER_NAMES = (
    "GatherLayer AllGather AllGatherFunction SyncFunction GatherFunction FullGatherLayer "
    "AllGatherGrad "
    "DiffAllGather AllGatherLayer DistributedGatherLayer GatherWithGrad AllGatherWithGrad Gather "
    "AllGatherFn DifferentiableAllGather _GatherFromRanks AllGatherCat Allgather CrossBatchGather"
)

LAYERS = (
    Row(
        LAYER_NAMES,
        "autograd.all_gather",
        "tensors = allranks.autograd.all_gather(tensor)",
        "",
        must=("base.Function", GATHER, "dist.all_reduce|dist.reduce_scatter*|dist.reduce"),
        never="call.sum",
        alone=("base.Function", "dist.all_gather", "dist.all_reduce|dist.reduce_scatter*"),
        kind="class",
        may="dist.*",
    ),
    Row(
        LAYER_NAMES,
        "autograd.all_gather",
        "tensors = allranks.autograd.all_gather(tensor)",
        "gradients change: ours sums those of all ranks, and this class keeps those of its "
        "own rank alone",
        must=("base.Function", GATHER),
        never="call.sum|dist.all_reduce|dist.reduce_scatter*|dist.reduce",
        alone=("base.Function", "dist.all_gather"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "AllReduce AllReduceFunction ReduceLayer SumGradients AllReduceSum DiffAllReduce "
        "DifferentiableAllReduce AllReduceLayer AllReduceWithGrad ReduceFromModelParallelRegion",
        "autograd.all_reduce",
        "total = allranks.autograd.all_reduce(tensor)",
        "",
        must=("base.Function", "dist.all_reduce|dist.all_gather"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "ReduceScatter ReduceScatterFunction ReduceScatterLayer",
        "autograd.reduce_scatter",
        "part = allranks.autograd.reduce_scatter(tensor)",
        "",
        must=("base.Function", "dist.reduce_scatter*|dist._reduce_scatter_base"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "AllToAll SeqAllToAll AllToAllFunction SeqAllToAll4D All2All",
        "autograd.all_to_all",
        "received = allranks.autograd.all_to_all(parts)",
        "",
        must=("base.Function", "dist.all_to_all*|call.*all_to_all*"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "Broadcast BroadcastFunction BroadcastLayer",
        "autograd.broadcast",
        "tensor = allranks.autograd.broadcast(tensor, src=0)",
        "",
        must=("base.Function", "dist.broadcast"),
        kind="class",
        may="dist.*",
    ),
    Row(
        GRAD_NAMES,
        "autograd.all_gather",
        "tensor = allranks.autograd.all_gather(tensor, cat=True)",
        "backward sums the gradients of all ranks",
        must=("returns", "call.apply|dist.nn.*|base.Function|dist.*autograd", "call.cat*"),
        never="dist.all_to_all*|call.sum",
        may="dist.*",
    ),
    Row(
        GRAD_NAMES,
        "autograd.all_gather",
        "tensors = allranks.autograd.all_gather(tensor)",
        "backward sums the gradients of all ranks",
        must=("returns", "call.apply|dist.nn.*|base.Function|dist.*autograd"),
        never="dist.all_to_all*|call.sum|call.cat*",
        may="dist.*",
    ),
    Row(
        "differentiable_all_reduce all_reduce_with_grad diff_all_reduce all_reduce_autograd "
        "all_reduce_grad reduce_with_grad all_reduce",
        "autograd.all_reduce",
        "total = allranks.autograd.all_reduce(tensor)",
        "",
        must=("returns", "call.apply|dist.nn.*|base.Function"),
        may="dist.*",
    ),
    Row(
        "all_to_all all_to_all_with_grad differentiable_all_to_all",
        "autograd.all_to_all",
        "received = allranks.autograd.all_to_all(parts)",
        "",
        must=("returns", "call.apply|dist.nn.*|base.Function", "dist.*all_to_all*|call.apply"),
        may="dist.*",
    ),
)
"""Collectives under autograd."""

METERS = (
    Row(
        "SmoothedValue",
        "meters.SmoothedValue",
        "meter = allranks.meters.SmoothedValue()",
        "",
        must=("method.update", "method.global_avg|method.synchronize_between_processes"),
        patch=("allranks.meters.SmoothedValue",),
        kind="class",
        like="__init__/2 update/2 synchronize_between_processes/0 median/0 avg/0 global_avg/0 "
        "max/0 value/0 count/1 total/1 __str__/0",
        may="dist.all_reduce|dist.barrier",
    ),
    Row(
        "AverageMeter RunningAverage DistributedAverageMeter AverageMeterDist Metric DistMeter "
        "Average DistributedMeter AvgMeter",
        "meters.SmoothedValue",
        "meter = allranks.meters.SmoothedValue()",
        "the mean of all values, which is avg here, is global_avg in ours: its avg is the "
        "mean of the last 20",
        must=("method.update", "dist.all_reduce|dist.all_gather*|call.all_reduce|call.reduce_*"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "MetricLogger MetricsLogger",
        "meters.MetricLogger",
        "logger = allranks.meters.MetricLogger()",
        "",
        must=("method.log_every", "method.update|method.add_meter"),
        patch=("allranks.meters.MetricLogger",),
        kind="class",
        like="__init__/1 update/0 add_meter/2 synchronize_between_processes/0 log_every/3 "
        "__getattr__/1 __str__/0",
        may="dist.all_reduce|dist.barrier",
    ),
    Row(
        "MetricLogger ProgressMeter MetricsLogger",
        "meters.MetricLogger",
        "logger = allranks.meters.MetricLogger()",
        "ours has update(loss=0.5), log_every(loader, 10) and str(logger), and no display()",
        must=("method.update|method.display",),
        never="method.log_every",
        kind="class",
        may="dist.all_reduce|dist.barrier",
    ),
    Row(
        "all_reduce synchronize sync reduce synchronize_between_processes accumulate",
        "all_reduce",
        "self.sum, self.count = allranks.all_reduce((self.sum, self.count))",
        "whole numbers are added exactly, and others with 64 bits; a float32 tensor in "
        "between would round counts above 16,777,216",
        must=("dist.all_reduce", "self.sum", "self.count"),
        never="self.total",
        patch=(
            (
                "self.sum, self.count = allranks.all_reduce((self.sum, self.count))\n"
                "?self.avg self.avg = self.sum / self.count"
            ),
        ),
        kind="method",
        may="dist.barrier|dist.ReduceOp.SUM",
    ),
    Row(
        "synchronize_between_processes synchronize sync all_reduce",
        "all_reduce",
        "self.count, self.total = allranks.all_reduce((self.count, self.total))",
        "whole numbers are added exactly, and others with 64 bits; a float32 tensor in "
        "between would round counts above 16,777,216",
        must=("dist.all_reduce|call.reduce_across_processes", "self.count", "self.total"),
        never="self.sum",
        patch=("self.count, self.total = allranks.all_reduce((self.count, self.total))",),
        kind="method",
        may="dist.barrier",
    ),
)
"""Numbers that training shows."""

FILES = (
    Row(
        "save_on_master save_on_main save_on_rank0 dist_save master_save save_if_main safe_save "
        "save_rank0 save_on_main_process torch_save rank_zero_save save save_on_primary",
        "save",
        "allranks.save(obj, path)",
        "all ranks have to call it, not rank 0 alone within `if is_master()`: rank 0 writes, "
        "and the others wait until the file is there",
        must=(SAVE, MASTER),
        patch=(
            "allranks.save({*args}{**kwargs})",
            "allranks.save({obj|state|data|state_dict|checkpoint}, {path|f|filename|file|fname})",
        ),
    ),
    Row(
        "save_model save_checkpoint save_ckpt save_state save_training_state save_snapshot "
        "save_weights save_checkpoint_on_master",
        "save",
        "allranks.save(state, path)",
        "all ranks have to call it, not rank 0 alone within `if is_master()`: rank 0 writes, "
        "and the others wait until the file is there",
        must=(SAVE, MASTER),
    ),
    Row(
        "DistributedSampler DistributedEvalSampler OrderedDistributedSampler "
        "DistributedTestSampler "
        "SequentialDistributedSampler InferenceSampler UnpaddedDistributedSampler EvalSampler "
        "DistributedSamplerNoDuplicate DistributedProxySampler TrainingSampler ShardedSampler "
        "NodeDistributedSampler DistributedSamplerWrapper InfiniteSampler "
        "DistributedShuffleSampler",
        "ShardSampler",
        "sampler = allranks.ShardSampler(dataset, shuffle=True, seed=0)",
        "no sample is repeated to fill up the last rank, so that ranks may have one more or "
        "less (drop_last=True: equally many); the order of a shuffle is another one",
        must=("base.*Sampler", f"dist.*|call.get_world_size|{RANK}"),
        kind="class",
        may="dist.*",
    ),
    Row(
        "shard shard_list shard_data get_shard split_by_rank partition_data local_slice "
        "split_for_rank get_local_indices shard_dataset split_data_by_rank shard_indices "
        "split_list",
        "shard",
        "mine = allranks.shard(items)",
        "each item is on exactly one rank, and none is left out or repeated",
        must=("returns", RANK, "dist.get_world_size|call.*world_size*|env.*SIZE*"),
        may="dist.*|env.*",
    ),
)
"""What is written once, and what is read in parts."""
