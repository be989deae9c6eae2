"""The patch: it applies, parses, keeps what callers use, and works with allranks in its place."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace

import pytest
import torch

from allranks._migrate.patch import patch, patched
from allranks._migrate.reading import lines_of, read
from allranks._migrate.recognise import recognise

DIST = "import torch\nimport torch.distributed as dist\n"


def after(source: str | bytes) -> str:
    module = read(source.encode() if isinstance(source, str) else source)
    return patched(module, recognise(module))


def body(function: str) -> list[str]:
    """What a function's body becomes, in a file with torch's imports."""
    lines = after(DIST + dedent(function)).splitlines()
    (start,) = [at for at, line in enumerate(lines) if line.startswith("def ")]
    return [line.strip() for line in lines[start + 1 :]]


@pytest.mark.parametrize(
    ("head", "inside", "becomes"),
    [
        ("get_rank()", "return dist.get_rank()", "return allranks.get_rank()"),
        ("get_rank(group=None)", "return dist.get_rank(group)", "return allranks.get_rank(group)"),
        ("is_main_process()", "return dist.get_rank() == 0", "return allranks.is_master()"),
        (
            "is_main_process(group)",
            "return dist.get_rank(group) == 0",
            "return allranks.get_rank(group) == 0",
        ),
        ("is_master(args)", "return args.rank == 0", "return allranks.is_master()"),
        ("barrier(group=None)", "dist.barrier(group)", "allranks.synchronize(group=group)"),
        (
            "reduce_mean(t, nprocs)",
            "t = t.clone(); dist.all_reduce(t); t /= nprocs; return t",
            "return allranks.all_reduce(t.clone()) / nprocs",
        ),
        (
            "reduce_mean(t)",
            "t = t.clone(); dist.all_reduce(t); return t / dist.get_world_size()",
            "return allranks.all_reduce(t.clone(), average=True)",
        ),
        ("all_reduce(t)", "dist.all_reduce(t)", "allranks.all_reduce(t, average=False)"),
        (
            "all_reduce_mean(x)",
            "t = torch.tensor(x); dist.all_reduce(t); return (t / dist.get_world_size()).item()",
            "return allranks.all_reduce(x, average=True)",
        ),
        (
            "all_reduce(t, op='sum', group=None)",
            "dist.all_reduce(t, OPS[op], group)",
            "allranks.all_reduce(t, group=group, op=op)",
        ),
        (
            "concat_all_gather(t)",
            "a = [t]; dist.all_gather(a, t); return torch.cat(a)",
            "return allranks.all_gather(t, cat=True)",
        ),
        (
            "gather(data, dst=0, group=None)",
            (
                "if dist.get_rank() != dst: return []\n    dist.gather_object(data, [], dst)\n"
                "    return data"
            ),
            "return allranks.gather_objects(data, group=group, dst=dst) or []",
        ),
        (
            "broadcast_object(obj, src=0)",
            "a = [obj]; dist.broadcast_object_list(a, src); return a[0]",
            "return allranks.broadcast_object(obj, src)",
        ),
        (
            "sync_params(params)",
            "for p in params: dist.broadcast(p, 0)",
            "allranks.broadcast(list(params), 0)",
        ),
        (
            "sync_model(model)",
            "for p in model.parameters(): dist.broadcast(p, 0)",
            "allranks.sync_module(model)",
        ),
        (
            "shared_random_seed()",
            "s = [3]; dist.broadcast_object_list(s); return s[0]",
            "return allranks.shared_seed() % 2**31",
        ),
        (
            "setup(rank, world_size)",
            "dist.init_process_group('gloo', rank=rank, world_size=world_size)",
            "allranks.setup(rank=rank, world_size=world_size)",
        ),
        (
            "init_dist(launcher, backend='nccl', **kwargs)",
            "dist.init_process_group(backend, **kwargs)",
            "allranks.setup(distributed_backend=backend, **kwargs)",
        ),
        (
            "is_distributed()",
            "return dist.is_initialized() and dist.get_world_size() > 1",
            "return allranks.get_world_size() > 1",
        ),
        ("cleanup()", "dist.destroy_process_group()", "allranks.cleanup()"),
    ],
)
def test_a_body_becomes_one_line(head: str, inside: str, becomes: str) -> None:
    assert body(f"def {head}:\n    {inside}\n") == [becomes]


@pytest.mark.parametrize(
    "function",
    [
        "def is_master(args, strict):\n    return args.rank == 0",
        "def reduce_mean(t, weights):\n    dist.all_reduce(t)\n    return t * weights",
        "def save_on_master(state, best, to):\n    if dist.get_rank() == 0: torch.save(state, to)",
        "def setup(seed):\n    torch.manual_seed(seed)\n    dist.init_process_group()",
        "def init_distributed_mode(args):\n    args.nodes = 2\n    dist.init_process_group()",
        "def init_dist():\n    dist.init_process_group()\n    return {'rank': 0}",
        "def is_master():\n    dist.barrier()\n    return dist.get_rank() == 0",
        "def all_gather(into, t):\n    dist.all_gather(into, t)\n    return into",
        "def seed_everything(seed):\n    torch.manual_seed(seed)",
        "def print_rank_0(message, rank=None):\n    if dist.get_rank() == 0: print(message)",
        "def all_reduce(t, op=dist.ReduceOp.SUM):\n    dist.all_reduce(t, op)",
        "import wandb\ndef setup():\n    wandb.init()\n    dist.init_process_group()",
        "def get_rank():\n    dist.barrier()",
        "def cleanup():\n    writer.close()\n    dist.destroy_process_group()",
        "def get_rank():\n    return dist.get_rank(GROUP)",
        "def reduce_mean(t):\n    dist.all_reduce(t, group=group_of(t))\n    return t",
        "def reduce_mean(t):\n    s = t.sum()\n    dist.all_reduce(s)\n    return s",
        "def print_rank_0(text):\n    if dist.get_rank() == 0: print('0:', text)",
        "def print_rank_0(x):\n    print(x) if dist.get_rank() == 0 else None; dist.barrier()",
        "def fit(x):\n    dist.all_reduce(x)\n    step(x)",
    ],
)
def test_what_one_line_would_change_for_callers_stays(function: str) -> None:
    assert after(DIST + function) == DIST + function


def test_set_up_leaves_on_its_arguments_what_it_left_before() -> None:
    source = """
        def init_distributed_mode(args):
            import builtins, os
            args.rank = int(os.environ["RANK"])
            args.gpu = 0
            args.distributed = True
            args.dist_backend = "nccl"
            dist.init_process_group(args.dist_backend)
            builtins.print = None
        """
    assert body(source) == [
        "allranks.setup()",
        "args.rank = allranks.get_rank()",
        "args.gpu = torch.device(allranks.get_device_for_local_rank()).index",
        "args.distributed = allranks.get_world_size() > 1",
        "allranks.print_on_master()",
    ]


FILE = '''\
#!/usr/bin/env python
"""Somebody's helpers."""
from __future__ import annotations

import contextlib
import functools
import torch as th
import torch.distributed as dist  # ours to keep

# Who are we?


@functools.lru_cache
def get_rank(group=None) -> int:
    """Our rank."""
    # asked once
    if not dist.is_initialized():
        return 0
    return dist.get_rank(group)  # at last


def dev(): return th.device("cuda")


@contextlib.contextmanager
def torch_distributed_zero_first(local_rank: int):
    if local_rank != 0: dist.barrier()
    yield
    if local_rank == 0: dist.barrier()


def master_only(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        if get_rank() == 0:
            return func(*args, **kwargs)
    return wrapper


class AverageMeter:
    sum, count = 3, 2

    def update(self, value):
        self.sum += value

    def all_reduce(self):
        both = th.tensor([self.sum, self.count])
        dist.all_reduce(both)
        self.sum, self.count = both.tolist()
        self.avg = self.sum / self.count


def untouched(x):
    dist.batch_isend_irecv(x)  # nobody knows
'''

AFTER = '''\
#!/usr/bin/env python
"""Somebody's helpers."""
from __future__ import annotations

import contextlib
import functools
import torch as th
import torch.distributed as dist  # ours to keep
import allranks

# Who are we?


@functools.lru_cache
def get_rank(group=None) -> int:
    """Our rank."""
    # asked once
    return allranks.get_rank(group)


def dev():
    return th.device(allranks.get_device_for_local_rank())


@contextlib.contextmanager
def torch_distributed_zero_first(local_rank: int):
    with allranks.master_first(per="node"):
        yield


def master_only(func):
    return allranks.master_only(func)


class AverageMeter:
    sum, count = 3, 2

    def update(self, value):
        self.sum += value

    def all_reduce(self):
        self.sum, self.count = allranks.all_reduce((self.sum, self.count))
        self.avg = self.sum / self.count


def untouched(x):
    dist.batch_isend_irecv(x)  # nobody knows
'''


def test_a_file() -> None:
    assert after(FILE) == AFTER


def test_the_diff_applies(tmp_path: Path) -> None:
    if not shutil.which("patch"):
        pytest.skip("there is no patch here")
    file = tmp_path / "utils" / "dist.py"
    file.parent.mkdir()
    for source in (FILE, FILE.rstrip("\n"), FILE.replace("\n", "\r\n"), f"\ufeff{FILE[22:]}"):
        file.write_bytes(source.encode())
        module = read(source.encode())
        diff = patch(module, recognise(module), "utils/dist.py")
        done = subprocess.run(
            ["patch", "-p1", "--binary", "-d", tmp_path], input=diff.encode(), capture_output=True
        )
        assert done.returncode == 0, done.stdout
        assert file.read_bytes().decode() == patched(module, recognise(module))
        compile(file.read_bytes(), "dist.py", "exec")


def test_the_patched_file_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an allranks that only notes what is asked of it."""
    asked = []

    @contextmanager
    def master_first(per):
        asked.append(per)
        yield

    ours = SimpleNamespace(
        get_rank=lambda group: ("rank", group),
        all_reduce=lambda data: tuple(4 * one for one in data),
        master_first=master_first,
        master_only=lambda func: func,
    )
    for name in ("torch", "torch.distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(
        sys.modules["torch"], "distributed", sys.modules["torch.distributed"], False
    )
    monkeypatch.setitem(sys.modules, "allranks", ours)
    names: dict = {}
    exec(compile(after(FILE), "dist.py", "exec"), names)
    assert names["get_rank"]("some group") == ("rank", "some group")
    with names["torch_distributed_zero_first"](3):
        assert asked == ["node"]
    meter = names["AverageMeter"]()
    meter.all_reduce()
    assert (meter.sum, meter.count, meter.avg) == (12, 8, 1.5)
    assert names["master_only"](len) is len


RANK = "def get_rank():\n    return dist.get_rank()\n"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (DIST, f"{DIST}import allranks\n"),
        (f"{DIST}import allranks\n", f"{DIST}import allranks\n"),
        (f'"""Text."""\n{DIST}', f'"""Text."""\n{DIST}import allranks\n'),
        (f"import os; x = (\n1)\n{DIST}", f"import os; x = (\n1)\nimport allranks\n{DIST}"),
        (
            "from torch import (\n  distributed as dist,\n)\n",
            "from torch import (\n  distributed as dist,\n)\nimport allranks\n",
        ),
        (
            "try:\n    import torch.distributed as dist\nexcept ImportError:\n    dist = None\n",
            (
                "import allranks\ntry:\n    import torch.distributed as dist\nexcept ImportError:\n"
                "    dist = None\n"
            ),
        ),
    ],
)
def test_where_the_import_goes(head: str, expected: str) -> None:
    assert after(head + RANK) == expected + "def get_rank():\n    return allranks.get_rank()\n"


def test_nothing_to_change_is_no_diff() -> None:
    module = read(b"x = 1\n")
    assert patch(module, recognise(module), "x.py") == ""


def test_lines_are_those_of_the_parser() -> None:
    """Not those of str.splitlines, which ends one at each of these."""
    source = f"{DIST}x = 'a\x0cb\u2028c'\n{RANK}"
    assert len(lines_of(source)) == 5
    assert "    return allranks.get_rank()\n" in after(source)


def test_tabs_stay() -> None:
    assert "\n\treturn allranks.get_rank()\n" in after(DIST + RANK.replace("    ", "\t"))


LOSSES = """
    def reduce_dict(input_dict, average=True):
        with torch.no_grad():
            values = []
            for name in sorted(input_dict.keys()):
                values.append(input_dict[name])
            values = torch.stack(values)
            dist.all_reduce(values)
            if average:
                values /= dist.get_world_size()
            return dict(zip(names, values))
"""


def test_losses_with_a_graph_are_reduced_as_before() -> None:
    """A loss that is logged has a graph, of which such a function makes no use."""
    assert body(LOSSES) == [
        "with torch.no_grad():",
        "return allranks.all_reduce(input_dict, average=average)",
    ]
    scope: dict = {}
    exec(after(DIST + dedent(LOSSES)), scope)  # Ours is there: in a world of one.
    loss = torch.ones(2, requires_grad=True).sum()
    assert scope["reduce_dict"]({"loss": loss})["loss"].item() == 2


def test_what_is_joined_behind_a_layer_is_joined_by_ours() -> None:
    layer = """
        class GatherLayer(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                out = [torch.zeros_like(x) for _ in range(dist.get_world_size())]
                dist.all_gather(out, x)
                return tuple(out)

            @staticmethod
            def backward(ctx, *grads):
                all_gradients = torch.stack(grads)
                dist.all_reduce(all_gradients)
                return all_gradients[dist.get_rank()]

        def gather_with_grad(x):
            return %s
    """
    for returned, line in (
        ("torch.cat(GatherLayer.apply(x), dim=0)", "all_gather(tensor, cat=True)"),
        ("GatherLayer.apply(x)", "all_gather(tensor)"),
    ):
        found = recognise(read((DIST + dedent(layer % returned)).encode()))
        (write,) = [one.write for one in found if one.name == "gather_with_grad"]
        assert write.endswith(f"allranks.autograd.{line}"), write
