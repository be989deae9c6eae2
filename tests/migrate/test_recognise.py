"""What is recognised: by a name and a body that fits it, or by a body alone; and what is not."""

from __future__ import annotations

from textwrap import dedent

import pytest

from allranks._migrate.reading import NotReadError, read
from allranks._migrate.recognise import HELPER, INLINE, NO_RANKS, RECOGNISED, UNKNOWN, recognise


def of(source: str) -> dict[str, tuple[str, str, str]]:
    """Status, how it is known, and ours, of everything in a source, by its name."""
    found = recognise(read(dedent(source).encode()))
    return {one.name: (one.status, one.known_by, one.ours) for one in found}


def note(source: str, name: str) -> str:
    (found,) = [one for one in recognise(read(dedent(source).encode())) if one.name == name]
    return found.note


DIST = "import os, torch\nimport torch.distributed as dist\n"
BY_NAME, BY_BODY = (RECOGNISED, "name and body"), (RECOGNISED, "body")


def test_a_family_s_file() -> None:
    """In the style of DETR's misc.py: functions that lean on each other."""
    source = """
        import builtins, os, pickle, torch
        import torch.distributed as dist

        def is_dist_avail_and_initialized():
            return dist.is_available() and dist.is_initialized()

        def get_world_size():
            return dist.get_world_size() if is_dist_avail_and_initialized() else 1

        def get_rank():
            return dist.get_rank() if is_dist_avail_and_initialized() else 0

        def is_main_process():
            return get_rank() == 0

        def save_on_master(*args, **kwargs):
            if is_main_process():
                torch.save(*args, **kwargs)

        def reduce_dict(values, average=True):
            names = sorted(values.keys())
            stacked = torch.stack([values[name] for name in names])
            dist.all_reduce(stacked)
            if average:
                stacked /= get_world_size()
            return dict(zip(names, stacked))

        def all_gather(data):
            mine = torch.frombuffer(bytearray(pickle.dumps(data)), dtype=torch.uint8)
            sizes = [None] * get_world_size()
            dist.all_gather(sizes, mine)
            return [pickle.loads(size) for size in sizes]

        def setup_for_distributed(is_master):
            shown = builtins.print
            def print(*args, force=False, **more):
                if is_master or force:
                    shown(*args, **more)
            builtins.print = print

        def init_distributed_mode(args):
            args.rank = int(os.environ["RANK"])
            dist.init_process_group("nccl", rank=args.rank)
            setup_for_distributed(args.rank == 0)

        def accuracy(output, target):
            return (output == target).float().mean()
        """
    assert of(source) == {
        "is_dist_avail_and_initialized": (*BY_NAME, "initialized"),
        "get_world_size": (*BY_NAME, "get_world_size"),
        "get_rank": (*BY_NAME, "get_rank"),
        "is_main_process": (*BY_NAME, "is_master"),
        "save_on_master": (*BY_NAME, "save"),
        "reduce_dict": (*BY_NAME, "all_reduce"),
        "all_gather": (*BY_NAME, "all_gather"),
        "setup_for_distributed": (*BY_NAME, "print_on_master"),
        "init_distributed_mode": (*BY_NAME, "setup"),
        "accuracy": (NO_RANKS, "", ""),
    }


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ("dist.barrier()", "synchronize"),
        ("if dist.is_initialized():\n        dist.barrier()", "synchronize"),
        ("return dist.get_rank() == 0", "is_master"),
        ("return not dist.is_initialized() or dist.get_rank() == 0", "is_master"),
        ("return dist.get_rank()", "get_rank"),
        ("return dist.get_world_size()", "get_world_size"),
        ("dist.destroy_process_group()", "cleanup"),
        ("dist.all_reduce(x)\n    return x / dist.get_world_size()", "all_reduce"),
        ("dist.broadcast(x, 0)\n    return x", "broadcast"),
        ("into = [None] * 2\n    dist.all_gather_object(into, x)\n    return into", "all_gather"),
    ],
)
def test_a_body_tells_by_itself(body: str, ours: str) -> None:
    assert of(f"{DIST}def qwerty(x):\n    {body}")["qwerty"] == (*BY_BODY, ours)


@pytest.mark.parametrize(
    "body",
    [
        "dist.barrier()\n    evaluate(x)",
        "dist.barrier()\n    dist.all_reduce(x)",
        "dist.all_reduce(x, op=dist.ReduceOp.MAX)",
        "return Loader(x, rank=dist.get_rank())",
        "return torch.ones(dist.get_world_size())",
        "y = x.sum()\n    dist.all_reduce(y)\n    return y",
        "dist.all_reduce(x, group=GROUP)",
        "return dist.get_rank(GROUP)",
        "x()\n    dist.barrier()",
        "return LOCAL if dist.is_initialized() else 1",
        "return dist.is_initialized() and dist.get_world_size() > 1",
        "\n    ".join(["dist.barrier()", *["x += 1"] * 12]),
        "dist.batch_isend_irecv(x)",
    ],
)
def test_a_body_that_does_something_else_does_not(body: str) -> None:
    assert of(f"{DIST}def qwerty(x):\n    {body}")["qwerty"] == (UNKNOWN, "", "")


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("def synchronize():\n    torch.cuda.synchronize()", NO_RANKS, "has nothing of ranks"),
        ("def get_rank(items):\n    return len(items)", NO_RANKS, "has nothing of ranks"),
        ("def is_main_process():\n    return __name__ == '__main__'", NO_RANKS, "nothing of ranks"),
        ("def barrier(x):\n    dist.batch_isend_irecv(x)", UNKNOWN, "has dist.batch_isend_irecv"),
        ("def all_gather(x):\n    dist.barrier()\n    return len(x)", UNKNOWN, "has dist.barrier"),
        ("def reduce_dict(d):\n    return {k: sum(v) for k, v in d.items()}", NO_RANKS, "nothing"),
        ("class SmoothedValue:\n    def smooth(self): pass", NO_RANKS, "nothing of ranks"),
    ],
)
def test_a_known_name_with_another_body_is_not_taken_for_ours(
    source: str, status: str, said: str
) -> None:
    (name,) = of(DIST + source)
    assert of(DIST + source)[name] == (status, "", "")
    assert said in note(DIST + source, name)
    assert "only its name is that of allranks." in note(DIST + source, name)


def test_a_name_that_its_body_contradicts_is_said() -> None:
    source = f"{DIST}def get_rank():\n    dist.barrier()"
    assert of(source)["get_rank"] == (*BY_BODY, "synchronize")
    assert "its name is that of allranks.get_rank, but its body is this" in note(source, "get_rank")


def test_what_a_recognised_function_does_beside_is_said() -> None:
    source = f"{DIST}def is_master():\n    dist.barrier()\n    return dist.get_rank() == 0"
    assert of(source)["is_master"][0] == RECOGNISED
    assert "its body also has dist.barrier: look" in note(source, "is_master")


@pytest.mark.parametrize(
    ("imported", "call"),
    [
        ("import torch.distributed as dist", "dist.barrier()"),
        ("import torch", "torch.distributed.barrier()"),
        ("import torch as th", "th.distributed.barrier()"),
        ("import torch.distributed", "torch.distributed.barrier()"),
        ("from torch import distributed as torch_dist", "torch_dist.barrier()"),
        ("from torch.distributed import barrier as wait", "wait()"),
        ("import torch.distributed.distributed_c10d as c10d", "c10d.barrier()"),
        (
            "try:\n    import torch.distributed as dist\nexcept ImportError:\n    pass",
            "dist.barrier()",
        ),
        ("import deepspeed.comm as dist", "dist.barrier()"),
    ],
)
def test_torch_distributed_is_found_whatever_its_name(imported: str, call: str) -> None:
    assert of(f"{imported}\ndef qwerty():\n    {call}")["qwerty"] == (*BY_BODY, "synchronize")


@pytest.mark.parametrize(
    "source",
    [
        "def qwerty(dist):\n    return dist.barrier()",
        "def qwerty(a, b):\n    dist = a - b\n    return dist.barrier()",
        "class dist: pass\ndef qwerty():\n    return dist.barrier()",
    ],
)
def test_another_thing_called_dist_is_not_torch_s(source: str) -> None:
    head = "" if source.startswith("class") else DIST
    assert of(head + source)["qwerty"] == (NO_RANKS, "", "")


def test_definitions_in_conditions_classes_and_coroutines() -> None:
    source = f"""{DIST}
if torch.cuda.is_available():
    def barrier(): dist.barrier()
else:
    try:
        def get_rank(group=None, *args, **more): return dist.get_rank(group)
    finally:
        pass

class Comm:
    @staticmethod
    def all_gather(x):
        into = [x]
        dist.all_gather(into, x)
        return into

    class Inner:
        async def synchronize(self):
            dist.barrier()

def outer():
    def get_world_size():
        return dist.get_world_size()
    return get_world_size
"""
    assert of(source) == {
        "barrier": (*BY_NAME, "synchronize"),
        "get_rank": (*BY_NAME, "get_rank"),
        "Comm.all_gather": (*BY_NAME, "all_gather"),
        "Comm.Inner.synchronize": (*BY_NAME, "synchronize"),
        "outer": (UNKNOWN, "", ""),
    }


def test_two_definitions_of_one_name_are_each_told() -> None:
    source = f"{DIST}if os.name:\n  def sync(): dist.barrier()\nelse:\n  def sync(): pass"
    found = recognise(read(source.encode()))
    assert [(one.line, one.status) for one in found] == [(4, RECOGNISED), (6, NO_RANKS)]


def test_classes() -> None:
    source = f"""{DIST}
import logging

class GatherLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        into = [x] * dist.get_world_size()
        dist.all_gather(into, x)
        return tuple(into)

    @staticmethod
    def backward(ctx, *grads):
        return grads[dist.get_rank()]

class AverageMeter:
    def update(self, value, n=1):
        self.sum += value * n
        self.count += n

    def all_reduce(self):
        both = torch.tensor([self.sum, self.count])
        dist.all_reduce(both)
        self.sum, self.count = both.tolist()

class RankFilter(logging.Filter):
    def filter(self, record):
        record.rank = dist.get_rank()
        return True
"""
    assert of(source) == {
        "GatherLayer": (*BY_NAME, "autograd.all_gather"),
        "AverageMeter": (*BY_NAME, "meters.SmoothedValue"),
        "AverageMeter.all_reduce": (*BY_NAME, "all_reduce"),
        "RankFilter": (*BY_NAME, "RankFilter"),
    }
    assert "ours sums those of all ranks" in note(source, "GatherLayer")


def test_decorators_and_context_managers() -> None:
    source = f"""{DIST}
import contextlib, functools

@contextlib.contextmanager
def torch_distributed_zero_first(local_rank):
    if local_rank not in (-1, 0):
        dist.barrier()
    yield
    if local_rank == 0:
        dist.barrier()

def master_only(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        if dist.get_rank() == 0:
            return func(*args, **kwargs)
    return wrapper
"""
    assert of(source) == {
        "torch_distributed_zero_first": (*BY_NAME, "master_first"),
        "master_only": (*BY_NAME, "master_only"),
    }


def test_a_private_helper_goes_with_those_it_serves() -> None:
    source = f"""{DIST}
def _start(backend):
    dist.new_subgroups(backend)

def _lonely():
    dist.new_subgroups()

def barrier():
    _start("nccl")
    dist.barrier()
"""
    assert of(source)["_start"] == (HELPER, "", "")
    assert note(source, "_start") == "serves barrier alone, and goes with it"
    assert of(source)["_lonely"] == (UNKNOWN, "", "")


def test_a_private_class_goes_with_those_it_serves() -> None:
    source = f"""{DIST}
class _Environment:
    def __init__(self):
        self._read()

    def _read(self):
        self.rank = int(os.environ["RANK"])

def setup():
    dist.init_process_group(rank=_Environment().rank)
"""
    assert of(source) == {"_Environment._read": (HELPER, "", ""), "setup": (*BY_NAME, "setup")}


def test_calls_in_no_function_have_a_line_each() -> None:
    source = """
        import os
        from torch.distributed import init_process_group, destroy_process_group
        if int(os.environ.get("RANK", -1)) != -1:
            init_process_group("nccl")
        destroy_process_group()
        """
    assert of(source) == {
        "RANK": (INLINE, "", "get_rank"),
        "dist.init_process_group": (INLINE, "", "setup"),
        "dist.destroy_process_group": (INLINE, "", "cleanup"),
    }


def test_a_function_that_is_not_known_is_told_its_calls() -> None:
    source = (
        f"{DIST}def fit(model):\n    dist.barrier()\n    train(model)\n    dist.all_reduce(model)"
    )
    told = "dist.all_reduce is allranks.all_reduce(tensor); dist.barrier is allranks.synchronize()"
    assert note(source, "fit") == f"in it, {told}"


@pytest.mark.parametrize("source", ["", "\n\n", "# nothing", "'''Only a docstring.'''", "x = 1"])
def test_a_file_without_functions(source: str) -> None:
    assert of(source) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfdef f(): pass\n",
        b"# -*- coding: latin-1 -*-\ndef f(): return '\xe9'\n",
        b"def f():\r\n    pass\r\n",
        b"def f(): return '\\d'",
        "def f(): return 'é\u2028\x0c'".encode(),
    ],
)
def test_encodings_and_line_ends(content: bytes) -> None:
    assert [one.name for one in read(content).found] == ["f"]


@pytest.mark.parametrize(
    "content",
    [
        b"def f(:\n",
        b"print 'two'\n",
        b"\xff\xfe\x00",
        b"# coding: nonsense\n",
        b"x = 1\x00",
        b"x = " + b"-" * 200_000 + b"1",
        b"# coding: rot13\nx = 1",
    ],
)
def test_what_is_no_python_is_an_error(content: bytes) -> None:
    with pytest.raises(NotReadError):
        read(content)


LIST, JOINED = (
    "tensors = allranks.all_gather(tensor)",
    "rows = allranks.all_gather(tensor, cat=True)",
)


@pytest.mark.parametrize(
    ("padding", "ending", "line"),
    [
        ("torch.cat([tensor, pad])", "return [o[:n] for o, n in zip(out, sizes)]", LIST),
        ("F.pad(tensor, pad)", "parts = []\n    parts.append(out[0])\n    return parts", LIST),
        ("F.pad(tensor, torch.stack(sizes))", "return out", LIST),
        (
            "torch.cat([tensor, pad])",
            "return torch.cat([o[:n] for o, n in zip(out, sizes)])",
            JOINED,
        ),
        ("tensor", "out = torch.cat(out)\n    return out", JOINED),
    ],
)
@pytest.mark.parametrize("name", ["gather_tensors", "all_gather_padded", "all_gather"])
def test_a_list_stays_a_list(name: str, padding: str, ending: str, line: str) -> None:
    """What is joined may be the padding: it is what is returned that counts."""
    source = f"""{DIST}
def {name}(tensor):
    sizes = [torch.zeros(1) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)]))
    out = [torch.empty(int(max(sizes))) for _ in sizes]
    dist.all_gather(out, {padding})
    {ending}
"""
    (found,) = recognise(read(source.encode()))
    assert found.row is not None
    assert found.row.line == line
