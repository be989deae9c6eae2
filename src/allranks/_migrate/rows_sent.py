"""Rows: data that one rank sends to others, and what ranks agree on."""

from __future__ import annotations

from allranks._migrate.row import Row

TRANSFERS = (
    Row(
        "broadcast bcast broadcast_tensor dist_broadcast broadcast_from_master sync_from_master",
        "broadcast",
        "allranks.broadcast(tensor, src=0)",
        "it changes the tensor that it gets",
        must=("dist.broadcast",),
        never="pickle|loops|call.*buffers|call.parameters|call.tobytes|dist.broadcast_object_list",
        alone=("dist.broadcast", "of-parameter"),
        patch=("allranks.broadcast({0}, {src|src_rank|root=0}{?group})\n?returns return {0}",),
        may="dist.broadcast|dist.group.*|dist._get_default_group|dist.get_backend|"
        "dist.all_reduce|dist.ReduceOp.*",
    ),
    Row(
        "broadcast_object broadcast_obj bcast_object broadcast_data broadcast_any broadcast_py "
        "broadcast_value broadcast_string broadcast_objects broadcast_dict broadcast_str "
        "broadcast_scalar bcast broadcast",
        "broadcast_object",
        "obj = allranks.broadcast_object(obj, src=0)",
        "",
        must=(
            "dist.broadcast|dist.broadcast_object_list|mpi.*",
            "pickle|dist.broadcast_object_list|call.loads|call.load|call.item|mpi.*",
            "returns",
        ),
        never="call.parameters",
        alone=("dist.broadcast_object_list", "returns"),
        patch=(
            (
                "return allranks.broadcast_object({obj|object|data|value|item|0}, "
                "{src|src_rank|root=0}{?group})"
            ),
        ),
        unused="args device dist_device",
        may="dist.broadcast*|dist.get_backend|dist.group.*",
    ),
    Row(
        "broadcast_object_list broadcast_objects broadcast_list",
        "broadcast_object_list",
        "allranks.broadcast_object_list(objects, src=0)",
        "it changes the tensor that it gets",
        must=("dist.broadcast_object_list|dist.broadcast",),
        never="returns",
        patch=("allranks.broadcast_object_list({0}, {src|src_rank=0}{?group})",),
        unused="device",
        may="dist.broadcast*|dist._*|dist.get_backend|dist.Backend*",
    ),
    Row(
        "broadcast_tensors broadcast_tensor_list broadcast_state_dict broadcast_tree",
        "broadcast",
        "allranks.broadcast(tensors, src=0)",
        "it changes the tensors that it gets, so that each rank needs some of the same "
        "shapes; where the others have none, allranks.broadcast_object(tensors)",
        must=("dist.broadcast|call.broadcast", "loops"),
        never="call.parameters",
        may="dist.broadcast*|dist.get_backend",
    ),
    Row(
        "sync_params sync_parameters broadcast_params broadcast_parameters sync_model sync_module "
        "broadcast_model sync_initial_weights sync_state sync_weights broadcast_weights "
        "sync_model_parameters synchronize_parameters broadcast_model_params",
        "sync_module",
        "allranks.sync_module(model)",
        "sends the module's buffers, too; where you have tensors and no module: "
        "allranks.broadcast(list(params), 0)",
        must=("dist.broadcast|dist._broadcast_coalesced|hvd.*|mpi.*",),
        patch=(
            "allranks.sync_module({model|module|net}{?src})",
            "allranks.broadcast(list({params|parameters|tensors}), {src=0})",
        ),
        may="dist.broadcast|dist._broadcast_coalesced",
    ),
    Row(
        "load_state_dict load_checkpoint load_on_master load_file dist_load load_state",
        "on_master",
        'state = allranks.on_master(lambda: torch.load(path, map_location="cpu"))',
        "rank 0 reads the file and the others receive what it has read; if reading fails, all"
        " ranks raise the error",
        must=("call.load", "mpi.*|dist.broadcast*|call.bcast|call.broadcast*"),
        may="mpi.*|dist.broadcast*|dist.barrier",
    ),
    Row(
        "scatter scatter_object scatter_objects scatter_object_list dist_scatter",
        "scatter_objects",
        "mine = allranks.scatter_objects(each, src=0)",
        "",
        must=("dist.scatter*",),
        alone=("dist.scatter*", "of-parameter"),
        may="dist.scatter*",
    ),
    Row(
        "all_to_all alltoall all_to_all_single all_to_all_tensor all_to_all_4d",
        "all_to_all",
        "received = allranks.all_to_all(parts)",
        "takes a list with one part for each rank, and returns such a list; tensors may have "
        "any sizes",
        must=("dist.all_to_all*",),
        never="base.*|call.apply|call.gather*",
        alone=("dist.all_to_all*", "of-parameter"),
        may="dist.all_to_all*",
    ),
    Row(
        "send isend send_tensor send_object send_to send_forward dist_send",
        "send",
        "allranks.send(data, dst)",
        "",
        must=("dist.send*|dist.isend",),
        never="dist.recv|dist.irecv|base.*",
        alone=("dist.send|dist.isend", "of-parameter"),
        may="dist.isend|dist.P2POp",
    ),
    Row(
        "recv irecv receive recv_tensor recv_object recv_from recv_forward dist_recv",
        "recv",
        "data = allranks.recv(src)",
        "it returns what was sent: no tensor to receive into is needed",
        must=("dist.recv*|dist.irecv",),
        never="dist.send|dist.isend|base.*",
        alone=("dist.recv|dist.irecv", "of-parameter"),
        may="dist.irecv|dist.P2POp",
    ),
    Row(
        "check_same assert_same verify_same assert_all_same check_consistency all_equal "
        "check_parameters_same verify_params_across_processes assert_equal_across_ranks",
        "check_same",
        'allranks.check_same(data, what="the settings")',
        "where ranks differ, the error names them and the place",
        must=("dist.all_gather*|dist.all_reduce|dist.broadcast*|call.all_gather*",),
        may="dist.*",
    ),
    Row(
        "any_rank all_ranks any_true all_true reduce_any reduce_all sync_flag sync_bool agree "
        "should_stop_all any_process all_processes_true broadcast_flag "
        "logical_and_across_model_parallel_group",
        "agree",
        'stop = allranks.agree(stop, "any")',
        "",
        must=("dist.all_reduce|dist.all_gather*|dist.broadcast",),
        may="dist.*",
    ),
)
"""Data sent from one to others."""
