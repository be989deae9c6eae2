"""Rows: data that ranks combine, and bring together."""

from __future__ import annotations

from allranks._migrate.row import Row

GATHER = "dist.all_gather|dist.all_gather_into_tensor|dist._all_gather_base|dist.all_gather_*"
EXTREME = "dist.ReduceOp.M*|dist.reduce_op.M*|dist.ReduceOp.PROD*|dist.ReduceOp.B*"
NO_TENSOR = "grad|call.named_buffers|dist.all_gather*|base.*"
REDUCES = "dist.get_world_size|dist.get_rank|dist.all_reduce|dist.Reduce*|dist.reduce_op.*"
GROUPS = "dist.get_world_size|dist.get_rank|dist.new_group|dist.group.WORLD|dist._get_default_group"

REDUCE_NAMES = (
    "all_reduce allreduce dist_all_reduce reduce_sum reduce_tensor reduce_mean all_reduce_mean "
    "reduce_value average_tensor sync_tensor distributed_sum all_reduce_sum all_reduce_tensor "
    "reduce_scalar reduce_loss metric_average all_reduce_scalar distributed_mean dist_reduce_mean "
    "avg_loss all_reduce_avg reduce_avg dist_mean all_mean sync_mean mean_reduce average_value "
    "average_across_ranks dist_average all_reduce_average reduce_across_processes reduce_metric "
    "reduce_loss_value dist_sum all_sum sync_value mpi_avg mpi_sum mpi_average dist_all_reduce_sum "
    "all_reduce_item sync_reduce"
)
GATHER_NAMES = (
    "all_gather all_gather_tensor gather_tensors gather_tensor all_gather_list gather_all "
    "allgather "
    "gather_all_tensors all_gather_object all_gather_objects all_gather_py gather_list_all "
    "all_gather_any dist_all_gather gather_from_all_ranks distributed_gather all_gather_nd "
    "gather_tensor_list all_gather_cpu all_gather_arbitrary all_gather_dict all_gather_variable "
    "all_gather_various_shapes varsize_tensor_all_gather all_gather_different_shapes "
    "gather_obj_all all_gather_padded all_gather_varsize all_gather_with_padding pad_and_gather "
    "padded_all_gather concat_all_gather"
)
AS_A_LIST = (
    GATHER_NAMES,
    "all_gather",
    "tensors = allranks.all_gather(tensor)",
    "the ranks' tensors may differ in size; no gradient flows back through those that it returns",
)
CAT_NAMES = (
    "concat_all_gather all_gather_concat gather_from_all distributed_concat all_gather_cat gather "
    "all_gather gather_features gather_tensor dist_collect concat_gather all_gather_and_cat "
    "gather_and_concat batch_all_gather gather_cat distributed_gather all_gather_tensor gather_all "
    "all_gather_concat_tensors gather_tensors all_gather_base all_gather_tensors allgather "
    "all_gather_padded all_gather_varsize all_gather_with_padding pad_and_gather padded_all_gather "
    "all_gather_variable gather_all_tensors"
)
GRAD_NAMES = (
    "differentiable_all_gather all_gather_with_grad diff_all_gather gather_with_grad gather "
    "all_gather_batch_with_grad all_gather_grad gather_layer gather_from_all gather_features "
    "all_gather_autograd all_gather_differentiable concat_all_gather_with_grad all_gather "
    "gather_tensor_with_grad concat_all_gather gather_from_all_with_grad grad_all_gather allgather"
)

REDUCTIONS = (
    Row(
        "reduce_dict all_reduce_dict reduce_loss_dict average_dict sync_dict reduce_metrics "
        "allreduce_dict reduce_losses reduce_logs "
        "all_reduce_metrics average_metrics sync_metrics dist_reduce_dict reduce_dict_mean",
        "all_reduce",
        "with torch.no_grad(): losses = allranks.all_reduce(losses, average=True)",
        "returns a new dict and leaves the one that it gets as it is; beside tensors it may "
        "hold Python numbers, which are added with 64 bits",
        must=("dist.all_reduce", "returns", "loops|call.keys|call.items|call.values"),
        never="grad|call.named_buffers|call.parameters|base.*",
        patch=(
            (
                "?!call.item with {@torch}.no_grad():\n"
                "?!call.item     return allranks.all_reduce({0}{?group}, average={average=@mean})"
            ),
        ),
        unused="device",
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        "reduce_dict reduce_loss_dict reduce_losses reduce_metrics",
        "all_reduce",
        "with torch.no_grad(): losses = allranks.all_reduce(losses, average=True)",
        "all ranks get the result; for rank 0 alone there is allranks.reduce, which returns "
        "None on the others",
        must=("dist.reduce", "returns", "loops|call.keys|call.items|call.values"),
        never="dist.all_reduce",
        patch=(
            (
                "?!call.item with {@torch}.no_grad():\n"
                "?!call.item     return allranks.all_reduce({0}{?group}, average={average=@mean})"
            ),
        ),
        may="dist.reduce|dist.ReduceOp.SUM",
    ),
    Row(
        "all_reduce_dict reduce_dict sync_dict average_dict",
        "all_reduce",
        "data.update(allranks.all_reduce(data, op=op))",
        "all_reduce returns a new dict with new tensors, and update puts these into yours",
        must=("dist.all_reduce", "call.keys|call.items|loops"),
        never="returns|grad|call.named_buffers|call.parameters|base.*",
        patch=(
            (
                "?default.op {0}.update(allranks.all_reduce({0}{?group}, op={op}))\n"
                "?!takes.op {0}.update(allranks.all_reduce({0}{?group}, average={@mean}))"
            ),
        ),
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        "average_losses_across_data_parallel_group average_losses",
        "all_reduce",
        "means = allranks.all_reduce(torch.stack(losses).detach(), average=True)",
        "",
        must=("dist.all_reduce", "call.cat|call.stack", "returns"),
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        "average_gradients sync_gradients reduce_gradients sync_grads gather_grad all_reduce_grads "
        "average_grads allreduce_grads all_reduce_gradients sync_gradient aggregate_gradients",
        "all_reduce",
        "for p in model.parameters(): allranks.all_reduce(p.grad, average=True)",
        "on all ranks the same parameters need a gradient: where one has grad None on some "
        "ranks only, it is an error",
        must=("dist.all_reduce|call.all_reduce|hvd.*|mpi.*", "grad"),
        may=REDUCES,
    ),
    Row(
        "all_reduce_params allreduce_params average_parameters average_params average_model "
        "all_reduce_parameters average_weights sync_weights",
        "all_reduce",
        "for p in params: allranks.all_reduce(p, average=True)",
        "it changes the tensors that it gets; hand a parameter over as p.data or p.detach()",
        must=("dist.all_reduce", "loops"),
        never="grad|call.named_buffers",
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        "scaled_all_reduce all_reduce_list reduce_tensors all_reduce_tensors all_reduce_multi",
        "all_reduce",
        "tensors = allranks.all_reduce(tensors, average=True)",
        "returns new tensors and leaves those that it gets as they are; those of one dtype "
        "are sent together",
        must=("dist.all_reduce", "loops"),
        never="grad|call.named_buffers|call.parameters",
        patch=("return allranks.all_reduce({0}{?group}, average={is_scale|average=@mean})",),
        unused="num_gpus",
        may="dist.all_reduce",
    ),
    Row(
        REDUCE_NAMES,
        "all_reduce",
        "tensor = allranks.all_reduce(tensor, average=True)",
        "it changes the tensor that it gets (give it tensor.clone() to keep that); a tensor "
        "that autograd has made is an error: give it tensor.detach()",
        must=("dist.all_reduce|mpi.*|hvd.*",),
        never=f"{NO_TENSOR}|{EXTREME}|takes.op|call.item|call.tolist",
        alone=("dist.all_reduce", "of-parameter"),
        patch=(
            (
                "?!call.clone {@returns}allranks.all_reduce({0}{?group}, average={average=@mean})\n"
                "?call.clone {@returns}allranks.all_reduce({0}.clone(){?group}, "
                "average={average=@mean})"
            ),
            (
                "return allranks.all_reduce({0}.clone()) / "
                "{n|world_size|nprocs|num_gpus|n_gpus|size|num_processes}"
            ),
        ),
        unused="args cfg config",
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        REDUCE_NAMES,
        "all_reduce",
        "value = allranks.all_reduce(value, average=True)",
        "a Python number gives a Python number, added with 64 bits; a tensor gives a tensor",
        must=("dist.all_reduce", "call.item|call.tolist"),
        never=f"{NO_TENSOR}|{EXTREME}|takes.op",
        patch=("return allranks.all_reduce({0}{?group}, average={average=@mean})",),
        unused="device",
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        f"{REDUCE_NAMES} all_reduce_max reduce_max dist_max max_reduce all_reduce_min reduce_min "
        "dist_min all_max global_max "
        "reduce_max_stat_across_model_parallel_group",
        "all_reduce",
        'tensor = allranks.all_reduce(tensor, op="max")',
        'op is a word, "min", "max" or "prod"; torch\'s ReduceOp.MAX is understood, too',
        must=("dist.all_reduce", EXTREME),
        never="grad|call.named_buffers|takes.op",
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        REDUCE_NAMES,
        "all_reduce",
        "tensor = allranks.all_reduce(tensor, op=op)",
        'op is a word: "sum", "mean", "min", "max", "prod", "band", "bor" or "bxor"; torch\'s '
        "ReduceOp.MAX is understood, too",
        must=("dist.all_reduce", "takes.op"),
        never=NO_TENSOR,
        patch=(
            (
                "?default.op ?!call.clone {@returns}allranks.all_reduce({0}{?group}, op={op})\n"
                "?default.op ?call.clone {@returns}allranks.all_reduce({0}.clone(){?group}, "
                "op={op})"
            ),
        ),
        may=f"{REDUCES}|{GROUPS}",
    ),
    Row(
        "distribute_bn average_bn sync_buffers average_buffers all_reduce_norm sync_bn_stats "
        "sync_bn_buffers broadcast_buffers reduce_bn sync_batchnorm allreduce_norm "
        "all_reduce_buffers",
        "average_buffers",
        "allranks.average_buffers(model)",
        "averages all buffers of the model, not those of batch norm alone; to copy rank 0's "
        "buffers instead, with the parameters: allranks.sync_module(model)",
        must=("dist.all_reduce|dist.broadcast", "call.*buffers|call.*norm*|call.*modules"),
        may=f"{REDUCES}|dist.broadcast|dist.all_gather*|{GROUPS}",
    ),
    Row(
        "reduce dist_reduce reduce_to_main reduce_to_rank0 reduce_tensor reduce_to_master "
        "reduce_loss "
        "reduce_sum reduce_mean",
        "reduce",
        "total = allranks.reduce(tensor, dst=0)",
        "returns None on the other ranks, where torch leaves a half-summed tensor",
        must=("dist.reduce",),
        never="dist.all_reduce|call.keys|call.items",
        alone=("dist.reduce", "of-parameter"),
        may="dist.reduce|dist.ReduceOp.*",
    ),
    Row(
        "reduce_scatter reduce_scatter_tensor dist_reduce_scatter",
        "reduce_scatter",
        "part = allranks.reduce_scatter(tensor)",
        "",
        must=("dist.reduce_scatter*|dist._reduce_scatter_base",),
        never="base.*|call.apply",
        alone=("dist.reduce_scatter*|dist._reduce_scatter_base", "of-parameter"),
        may="dist.*",
    ),
)
"""Data combined."""

GATHERINGS = (
    Row(
        GATHER_NAMES,
        "all_gather",
        "entries = allranks.all_gather(data)",
        "tensors are sent without pickle, and each rank's may have another size; anything "
        "else is sent as a pickled object",
        must=(
            "dist.all_gather|dist.all_gather_object|dist.all_reduce",
            "pickle|dist.all_gather_object|call.loads|call.load",
            "returns",
        ),
        never="base.*|dist.nn.*|call.rmtree|dist.gather_object",
        alone=("dist.all_gather_object", "returns:*", "of-parameter"),
        patch=("return allranks.all_gather({data|obj|0}{?group})",),
        unused="args max_size device dst",
        may="dist.all_gather*|dist.new_group|dist.group.*|dist.get_backend|dist.Backend*|"
        "dist._get_default_group|dist.all_reduce|dist.distributed_c10d*",
    ),
    Row(
        *AS_A_LIST,
        must=(GATHER, "returns-list"),  # What is joined in it is padding.
        never="pickle|dist.all_gather_object|base.*|dist.nn.*|call.apply",
        patch=("return allranks.all_gather({0}{?group})",),
        unused="world_size",
        may=f"dist.all_gather*|dist._all_gather_base|{GROUPS}",
    ),
    Row(
        *AS_A_LIST,
        must=(GATHER, "returns"),
        never="pickle|dist.all_gather_object|call.cat|call.concat*|base.*|dist.nn.*|call.stack"
        "|returns-list",
        alone=("dist.all_gather", "returns:*", "of-parameter"),
        patch=("return allranks.all_gather({0}{?group})",),
        unused="world_size",
        may=f"dist.all_gather*|dist._all_gather_base|{GROUPS}",
    ),
    Row(
        GATHER_NAMES,
        "all_gather",
        "stacked = torch.stack(allranks.all_gather(tensor))",
        "no gradient flows back through the tensors that it returns",
        must=(GATHER, "call.stack", "returns"),
        never="pickle|dist.all_gather_object|call.cat|call.concat*|base.*|dist.nn.*|returns-list",
        may=f"dist.all_gather*|{GROUPS}",
    ),
    Row(
        CAT_NAMES,
        "all_gather",
        "rows = allranks.all_gather(tensor, cat=True)",
        "the ranks may have different numbers of rows; no gradient flows back "
        "(allranks.autograd.all_gather lets it)",
        must=(GATHER, "call.cat|call.concat*|call.vstack|dist.all_gather_into_tensor", "returns"),
        never="pickle|base.*|dist.nn.*|call.apply|dist.all_gather_tensor_autograd|returns-list",
        alone=("dist.all_gather", "call.cat|call.concat*", "returns", "of-parameter"),
        patch=("return allranks.all_gather({0}{?group}, cat=True)",),
        unused="world_size",
        may=f"dist.all_gather*|dist._all_gather_base|{GROUPS}",
    ),
    Row(
        "all_gather_batch all_gather_many gather_batch",
        "all_gather",
        "gathered = [allranks.all_gather(one, cat=True) for one in tensors]",
        "the ranks may have different numbers of rows; no gradient flows back "
        "(allranks.autograd.all_gather lets it)",
        must=(GATHER, "loops", "returns"),
        never="pickle|base.*|dist.nn.*|call.apply",
        patch=("return [allranks.all_gather(one, cat=True) for one in {0}]",),
        may="dist.all_gather*",
    ),
    Row(
        "gather gather_object gather_objects dist_gather gather_to_main gather_list gather_py "
        "gather_obj gather_to_rank0 gather_on_master gather_to_rank_0",
        "gather_objects",
        "entries = allranks.gather_objects(data, dst=0)",
        "returns None on the other ranks, not an empty list; dst counts among all ranks, also"
        " where a group is given",
        must=("dist.gather|dist.gather_object|mpi.*", "returns []"),
        patch=("return allranks.gather_objects({data|obj|0}{?group}{?dst}) or []",),
        may="dist.gather*|dist.all_gather*|dist.new_group|dist.group.*|dist.Backend*|"
        "dist.get_backend|dist._get_default_group",
    ),
    Row(
        "gather gather_object gather_objects dist_gather gather_to_main gather_list gather_py "
        "gather_obj gather_to_rank0 gather_on_master gather_to_rank_0 gather_tensor",
        "gather",
        "entries = allranks.gather(data, dst=0)",
        "returns None on the other ranks; the ranks' tensors may differ in size",
        must=("dist.gather|dist.gather_object|mpi.*",),
        never="returns []",
        alone=("dist.gather|dist.gather_object", "of-parameter"),
        may="dist.gather*|dist.all_gather*|dist.new_group|dist.group.*|dist.Backend*|"
        "dist.get_backend|dist._get_default_group|dist.broadcast|dist.ProcessGroup*",
    ),
    Row(
        "merge_results_dist collect_results collect_results_cpu collect_results_gpu gather_results "
        "collect_results_device collect_results_distributed merge_results gather_predictions "
        "accumulate_predictions_from_multiple_gpus collect_results_npu merge_dist_results",
        "gather_shards",
        "results = allranks.gather_shards(part, dst=0)",
        "needs no shared directory; part holds this rank's results in the order in which "
        "allranks.ShardSampler gave the samples, of which none is repeated: nothing has to be"
        " cut off at the end",
        must=(
            (
                "dist.barrier|call.barrier|call.synchronize|dist.all_gather*|call.all_gather*|"
                "dist.gather*|call.gather*|call.collect_results*"
            ),
            "returns",
        ),
        may="dist.barrier|dist.broadcast|dist.all_gather*|dist.gather*",
    ),
)
"""Data brought together."""
