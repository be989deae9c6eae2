"""What is said of files that use what goes: imports of all forms, calls, and attributes."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from allranks._migrate.call_sites import Site, call_sites
from allranks._migrate.project import Project, python_files, source_of
from allranks._migrate.reading import read
from allranks._migrate.remains import partings

PAGE = Path(__file__).parents[2] / "docs" / "your-dist-utils.md"

HELPERS = """
import os, torch
import torch.distributed as dist

def get_rank():
    return dist.get_rank()

def is_main_process():
    return get_rank() == 0

def is_last_rank():
    return dist.get_rank() == dist.get_world_size() - 1

def reduce_mean(tensor, nprocs):
    dist.all_reduce(tensor)
    return tensor / nprocs

def all_reduce_mean(value):
    total = torch.tensor(value)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).item()

def reduce_dict(losses, average=True):
    with torch.no_grad():
        for name in losses.keys():
            dist.all_reduce(losses[name])
        return losses

def save_on_master(*args, **kwargs):
    if is_main_process():
        torch.save(*args, **kwargs)

def print_rank_0(message):
    if get_rank() == 0:
        print(message)

def set_seed(seed):
    torch.manual_seed(seed + get_rank())

def master_only(func):
    def inner(*args, **kwargs):
        if is_main_process():
            return func(*args, **kwargs)
    return inner

def init_distributed_mode(args):
    _fill(args)
    args.distributed = True
    dist.init_process_group("nccl", init_method=args.dist_url)

def _fill(options):
    options.rank = int(os.environ["RANK"])
    setattr(options, "gpu", 0)
    options.nodes = 2

def accuracy(x):
    return x
"""


def sites(tmp_path: Path, **files: str) -> dict[str, Site]:
    """The sites of a project with ``utils/misc.py`` and these files, whose ``__`` are slashes."""
    written = {"utils__misc": HELPERS, "utils____init__": "", **files}
    for name, text in written.items():
        path = tmp_path / f"{_name(name)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    found = call_sites(Project([_source(tmp_path, path) for path in python_files(tmp_path)]))
    return {site.source.name: site for site in found}


def _name(key: str) -> str:
    return "utils/__init__" if key == "utils____init__" else key.replace("__", "/")


def _source(root: Path, path: Path):
    name = path.relative_to(root).as_posix()
    return source_of(name, path, read(path.read_bytes()), asked=False)


def lines(site: Site) -> list[tuple[int, str, str]]:
    return [(one.line, one.shown, one.shown_new) for one in site.changes]


def in_main(tmp_path: Path, text: str, **files: str) -> Site:
    return sites(tmp_path, main=text, **files)["main.py"]


def becomes(tmp_path: Path, statement: str) -> str:
    """What a statement becomes in a file that takes the helpers as ``utils``."""
    text = f"import torch, allranks\nimport utils.misc as utils\n{statement}\n"
    (change,) = in_main(tmp_path, text).changes[1:]
    return f"by hand: {change.new}" if change.by_hand else change.new


@pytest.mark.parametrize(
    ("imported", "call", "new_import"),
    [
        ("import utils.misc", "utils.misc.get_rank()", "import allranks"),
        ("import utils.misc as m", "m.get_rank()", "import allranks"),
        ("from utils import misc", "misc.get_rank()", "import allranks"),
        ("from utils.misc import get_rank", "get_rank()", "import allranks"),
        ("from utils.misc import get_rank as rank", "rank()", "import allranks"),
        ("from utils.misc import *", "get_rank()", "import allranks"),
        ("import os, utils.misc", "utils.misc.get_rank()", "import os\nimport allranks"),
        (
            "from utils.misc import accuracy, get_rank",
            "get_rank(accuracy)",
            "from utils.misc import accuracy\nimport allranks",
        ),
        ("from .utils.misc import get_rank", "get_rank()", "import allranks"),
        ("from .utils import misc", "misc.get_rank()", "import allranks"),
        ("from . import utils", "utils.misc.get_rank()", "import allranks"),
    ],
)
def test_imports_of_all_forms_are_followed(
    tmp_path: Path, imported: str, call: str, new_import: str
) -> None:
    site = in_main(tmp_path, f"{imported}\nx = {call.replace('(accuracy)', '()')}\n")
    assert [(one.line, one.new) for one in site.changes if one.line == 2] == [
        (2, "allranks.get_rank")
    ]
    told = [one.new for one in site.changes if one.line == 1]
    assert told == [new_import]


def test_a_name_that_a_package_hands_on_is_followed(tmp_path: Path) -> None:
    handed = "from .misc import get_rank\nfrom .misc import *\n"
    text = "from utils import get_rank, accuracy\nget_rank()\naccuracy(1)\n"
    each = sites(tmp_path, main=text, utils____init__=handed)
    assert lines(each["main.py"]) == [
        (1, text.splitlines()[0], "from utils import accuracy\nimport allranks"),
        (2, "get_rank()", "allranks.get_rank()"),
    ]
    assert [(target.name, line) for target, line in each["main.py"].kept] == [("accuracy", 3)]


@pytest.mark.parametrize(
    "text",
    [
        "import misc\nmisc.other()",
        "import logging\nlogging.get_rank()",
        "from elsewhere import get_rank\nget_rank()",
        "get_rank()",
        "import utils.other\nutils.other.get_rank()",
        "from utils.misc import accuracy\naccuracy(1)",
    ],
)
def test_what_is_not_of_the_helpers_stays(tmp_path: Path, text: str) -> None:
    assert lines(in_main(tmp_path, text)) == []


def test_a_name_that_a_function_gives_to_something_else_is_not_ours(tmp_path: Path) -> None:
    text = "from utils.misc import get_rank\ndef f(get_rank):\n    return get_rank()\n"
    assert [one.line for one in in_main(tmp_path, text).changes] == [1]


@pytest.mark.parametrize(
    ("statement", "new"),
    [
        ("x = utils.is_main_process()", "allranks.is_master"),
        ("x = utils.reduce_mean(a + b, n)", "allranks.all_reduce((a + b).clone()) / n"),
        ("x = 2 * utils.is_last_rank()", None),
        ("utils.all_reduce_mean(x)", "allranks.all_reduce(x, average=True)"),
        (
            "y = utils.reduce_dict(x, average=False)",
            "with torch.no_grad(): y = allranks.all_reduce(x, average=False)",
        ),
        ("return_ = [utils.reduce_dict(x)]", None),
        ("utils.print_rank_0('a')", "if allranks.is_master(): print('a')"),
        ("utils.save_on_master(x, f=path)", "allranks.save"),
        ("x = map(f, utils.is_main_process)", "allranks.is_master"),
        ("utils.set_seed(1)", "by hand: allranks.seed_all(seed)"),
        ("utils.reduce_mean(*both)", None),
    ],
)
def test_a_call_is_told_with_its_arguments(tmp_path: Path, statement: str, new: str | None) -> None:
    told = becomes(tmp_path, statement)
    assert told.startswith("by hand" if statement.startswith(("return", "utils.reduce")) else "")
    if "is_last_rank" in statement:
        new = "(allranks.get_rank() == allranks.get_world_size() - 1)"
    assert new is None or told == new


def test_a_call_within_a_call_is_changed_with_it(tmp_path: Path) -> None:
    told = becomes(tmp_path, "x = utils.reduce_mean(y, utils.get_rank())")
    assert told == "allranks.all_reduce(y.clone()) / allranks.get_rank()"


def test_a_decorator_is_named_and_not_called(tmp_path: Path) -> None:
    text = "from utils.misc import master_only\n@master_only\ndef f(): pass\n"
    assert lines(in_main(tmp_path, text))[1] == (2, "master_only", "allranks.master_only")


def test_a_long_call_is_shown_without_its_arguments(tmp_path: Path) -> None:
    text = "import utils.misc as m\nm.save_on_master(\n    {'a': 1},\n    'b',\n)\n"
    change = in_main(tmp_path, text).changes[1]
    assert (change.shown, change.shown_new) == ("m.save_on_master(...)", "allranks.save(...)")
    assert (change.old, change.new) == ("m.save_on_master", "allranks.save")


def test_a_save_of_rank_0_alone_is_to_be_looked_at(tmp_path: Path) -> None:
    text = """\
        import utils.misc as m
        def end(args):
            if m.is_main_process():
                m.save_on_master(1, 2)
            if args.rank == 0:
                m.save_on_master(1, 2)
            m.save_on_master(1, 2)
        """
    notes = in_main(tmp_path, text).notes
    assert [line for line, _ in notes] == [4, 6]
    assert "within `if m.is_main_process():` of line 3: call it on all ranks" in notes[0][1]


ARGS = """\
import argparse
from utils.misc import init_distributed_mode
def main(opt):
    init_distributed_mode(opt)
    print(f"{opt.rank} {opt.other}", opt.dist_url, getattr(opt, "gpu", 0), not opt.distributed)
    return opt.distributed == 1, opt.nodes
def other(self, name):
    return self.opt.rank, getattr(self.opt, name)
parser = argparse.ArgumentParser()
parser.add_argument("--dist-url", default="env://")
parser.add_argument("--other")
"""


def test_what_set_up_left_on_its_arguments_is_read_elsewhere(tmp_path: Path) -> None:
    site = in_main(tmp_path, ARGS)
    gpu = "torch.device(allranks.get_device_for_local_rank()).index"
    told = {(line, old): new for line, old, new in lines(site)}
    assert told == {
        (2, ARGS.splitlines()[1]): "import allranks\nimport torch",
        (4, "init_distributed_mode(opt)"): "allranks.setup()",
        (5, "opt.rank"): "allranks.get_rank()",
        (5, 'getattr(opt, "gpu", 0)'): gpu,
        (5, "opt.distributed"): "allranks.get_world_size() > 1",
        (6, "opt.distributed"): "(allranks.get_world_size() > 1)",
        (6, "opt.nodes"): "(ours sets nothing of that name: set it yourself)",
        (8, "self.opt.rank"): "allranks.get_rank()",
        (10, 'parser.add_argument("--dist-url", ...)'): (
            "(delete it, and from the commands that give it)"
        ),
    }
    assert site.notes == [(8, "getattr(self.opt, name): which attribute it reads is not followed")]


def test_the_table_says_what_set_up_leaves(tmp_path: Path) -> None:
    source = sites(tmp_path)["utils/misc.py"].source
    (one,) = [one for one in source.recognised if one.leaves]
    assert dict(one.leaves) == {
        "args.rank": "allranks.get_rank()",
        "args.gpu": "torch.device(allranks.get_device_for_local_rank()).index",
        "args.nodes": "(ours sets nothing of that name: set it yourself)",
        "args.distributed": "allranks.get_world_size() > 1",
    }


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("from utils.misc import *\nget_rank()", 1, "told by their names alone"),
        ("from utils import misc\ngetattr(misc, name)()", 2, "getattr(misc, name): the module is"),
        ("from utils import misc\ncall(misc)", 2, "call(misc): the module is handed on"),
        ("import importlib\nimportlib.import_module('utils.misc')", 2, "named by a text"),
    ],
)
def test_what_cannot_be_followed_is_said(tmp_path: Path, text: str, line: int, said: str) -> None:
    notes = in_main(tmp_path, text).notes
    assert [(where, said in note) for where, note in notes] == [(line, True)]


@pytest.mark.parametrize("used", ["m.dist.barrier()", "getattr(m, name)()", "m.accuracy(1)"])
def test_an_import_stays_while_something_else_of_it_is_used(tmp_path: Path, used: str) -> None:
    text = f"from utils import misc as m\nm.get_rank()\n{used}\n"
    told = lines(in_main(tmp_path, text))
    assert told[0] == (
        1,
        "from utils import misc as m",
        "from utils import misc as m\nimport allranks",
    )


def test_an_import_that_a_block_needs_leaves_something_there(tmp_path: Path) -> None:
    text = """\
        import utils.misc
        try:
            from utils.misc import get_rank
        except ImportError:
            from utils.misc import is_main_process
        def f():
            from utils.misc import get_rank
            return get_rank()
        """
    told = {line: new for line, _, new in lines(in_main(tmp_path, text)) if line != 8}
    assert told == {1: "import allranks", 3: "pass", 5: "pass", 7: "(delete the line)"}


def test_what_stays_has_to_move_and_says_where_it_is_used(tmp_path: Path) -> None:
    each = sites(tmp_path, main="from utils.misc import accuracy\naccuracy(1)\n")
    told = list(partings(each["utils/misc.py"].source, [*each.values()]))
    assert told == [
        (
            "Before you delete utils/misc.py, move: accuracy (not about ranks: allranks has "
            "nothing for them)."
        ),
        "Then import them from their new place: main.py:2 (accuracy).",
    ]


def test_a_function_that_stays_is_told_its_own_lines(tmp_path: Path) -> None:
    more = f"{HELPERS}\ndef fit():\n    return get_rank()\n"
    site = sites(tmp_path, utils__misc=more)["utils/misc.py"]
    assert [(old, new) for _, old, new in lines(site)] == [
        ("(among the imports)", "import allranks"),
        ("get_rank()", "allranks.get_rank()"),
    ]


def test_environments_and_hidden_directories_are_not_read(tmp_path: Path) -> None:
    for name in (".git", "venv", "node_modules", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").touch()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert [one.parent.name for one in python_files(tmp_path)] == ["own"]


def test_the_page_shows_what_the_command_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```diff\n(.*?)```", PAGE.read_text(), re.DOTALL)
    utils, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    before, after = (
        "".join(f"{line[1:]}\n" for line in block.splitlines() if line[:1] in kept)
        for kept in (("", " ", "-"), ("", " ", "+"))
    )
    for name, text in {"utils.py": utils, "main.py": before}.items():
        (tmp_path / name).write_text(text)
    project = Project([_source(tmp_path, path) for path in python_files(tmp_path)])
    (changes,) = [one.changes for one in call_sites(project) if one.source.name == "main.py"]
    for change in sorted(changes, key=lambda one: one.span, reverse=True):
        start, end = change.span
        before = before[:start] + change.new + before[end:]
    assert before == after
