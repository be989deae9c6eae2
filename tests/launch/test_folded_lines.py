"""What several ranks write alike is shown once; each rank's lines are all shown, in its order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allranks
from allranks._launch import folded_lines
from allranks._launch.folded_lines import FoldedLines
from allranks._launch.rank_output import RankOutput
from allranks._system.words import by_host, ranges
from harness import PATIENCE
from torch_versions import without_chatter

RUN = [sys.executable, "-m", "allranks._cli", "run"]

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Shown:
    """Folded lines on a clock that the test moves, and what has been shown of them."""

    def __init__(self, ranks: int) -> None:
        self.now = 0.0
        self.shown: list[tuple[list[int], int, bytes]] = []
        self.lines = FoldedLines(ranks, lambda *line: self.shown.append(line), lambda: self.now)

    def of(self, rank: int) -> list[tuple[int, bytes]]:
        return [(stream, text) for ranks, stream, text in self.shown if rank in ranks]


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1, 2]), st.sampled_from([b"a", b"b", b""]))
    | st.sampled_from(["wait", "end 0", "end 1", "redrawn 2"]),
    max_size=60,
)


@UNTIMED
@given(steps=STEPS, ranks=st.integers(4, 12))
def test_each_ranks_lines_are_all_shown_in_its_order(steps: list, ranks: int) -> None:
    one = Shown(ranks)
    written: dict[int, list[tuple[int, bytes]]] = {rank: [] for rank in range(ranks)}
    ended = set()
    for step in steps:
        if step == "wait":
            one.now += 0.05
            one.lines.show_due()
        elif isinstance(step, str):
            word, rank = step.split()
            if word == "end":
                ended.add(int(rank))
                one.lines.end(int(rank), 1)
                one.lines.end(int(rank), 2)
            else:
                one.lines.show_all_of(int(rank))
                assert one.of(int(rank)) == written[int(rank)]
        elif step[0] not in ended:
            one.lines.add(*step)
            written[step[0]].append(step[1:])
    one.lines.show_all()
    assert {rank: one.of(rank) for rank in range(ranks)} == written
    assert all(list(who) == sorted(set(who)) for who, _, _ in one.shown)
    assert one.lines.show_due() is None


@UNTIMED
@given(st.permutations([0, 1, 2, 3] * 3))
def test_ranks_that_write_alike_are_one_however_they_take_turns(turns: list) -> None:
    """Each rank writes x, y, z in this order; who writes when is drawn."""
    one = Shown(4)
    texts = {rank: iter([b"x", b"y", b"z"]) for rank in range(4)}
    for rank in turns:
        one.lines.add(rank, 1, next(texts[rank]))
    everyone = [0, 1, 2, 3]
    assert one.shown == [(everyone, 1, b"x"), (everyone, 1, b"y"), (everyone, 1, b"z")]


def test_what_all_have_written_is_shown_at_once() -> None:
    one = Shown(3)
    for rank in range(3):
        assert one.shown == []
        one.lines.add(rank, 1, b"hello")
    assert one.shown == [([0, 1, 2], 1, b"hello")]


def test_nothing_waits_with_one_rank_or_for_one_that_has_ended() -> None:
    alone = Shown(1)
    alone.lines.add(0, 1, b"hello")
    assert len(alone.shown) == 1
    left = Shown(2)
    left.lines.add(0, 1, b"hello")
    left.lines.end(1, 1)
    assert left.shown == []
    left.lines.end(1, 2)
    assert left.shown == [([0], 1, b"hello")]


@pytest.mark.parametrize(("ranks", "window"), [(2, 0.1), (8, 0.1), (9, 0.3)])
def test_a_lone_line_waits_for_the_window(ranks: int, window: float) -> None:
    one = Shown(ranks)
    one.lines.add(1, 1, b"mine")
    one.now = window - 0.01
    assert one.lines.show_due() == pytest.approx(0.01)
    assert one.shown == []
    one.now = window
    assert one.lines.show_due() is None
    assert one.shown == [([1], 1, b"mine")]


def test_a_ranks_second_line_is_not_its_first() -> None:
    one = Shown(3)
    for rank, stream in [(0, 1), (0, 1), (1, 1), (1, 1), (1, 2)]:
        one.lines.add(rank, stream, b"tick")
    one.lines.show_all()
    told = [(ranks, stream) for ranks, stream, _ in one.shown]
    assert told == [([0, 1], 1), ([0, 1], 1), ([1], 2)]


@pytest.mark.parametrize("text", [b"", b"long" * 50_000])
def test_what_waits_is_bounded(text: bytes) -> None:
    one = Shown(2)
    for number in range(2000):
        one.lines.add(0, 1, b"%d" % number + text)
    waiting = 2000 - len(one.shown)
    assert waiting <= folded_lines.MOST[0]
    assert waiting * len(text) <= folded_lines.MOST[1]


def test_a_progress_bar_is_shown_at_once_and_after_what_its_rank_wrote(capfdbinary) -> None:
    output = RankOutput(3)
    output.write(0, 1, b"begin\n")
    output.write(1, 1, b"other\n")
    output.write(0, 1, b"50%\r100%\n")
    output.write(1, 1, b"after\n")
    assert capfdbinary.readouterr().out.decode() == "0│ begin\n1│ other\n0│ 100%\n"
    output.show_all()
    assert capfdbinary.readouterr().out.decode() == "1│ after\n"


SAME = """
import sys, traceback, allranks
with allranks.session(cpu=True) as world:
    allranks.synchronize()
    print("one"); print("two"); print("three")
    if world.rank == 5:
        print("different")
    allranks.synchronize()
    try:
        raise LookupError("alike")
    except LookupError:
        traceback.print_exc()
"""


def told(tmp_path: Path, *options: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The lines of the standard output and error of 64 ranks, each as who and what."""
    (tmp_path / "script.py").write_text(SAME)
    command = [*RUN, "-n", "64", *options, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    streams = (without_chatter(done.stdout), done.stderr)
    pairs = [[line.partition("│ ")[::2] for line in text.splitlines()] for text in streams]
    return pairs[0], pairs[1]


def test_64_ranks_that_write_alike(tmp_path: Path) -> None:
    """How many times each line is shown depends on the machine; 64 times would be no folding."""
    lines, errors = told(tmp_path)
    for word in ("one", "two", "three"):
        assert len([who for who, what in lines if what == word]) < 20
    assert [who.strip() for who, what in lines if what == "different"] == ["5"]
    ends = [number for number, (_, what) in enumerate(errors) if what == "LookupError: alike"]
    assert 0 < len(ends) < 20
    whole = [what for _, what in errors[ends[0] - 3 : ends[0]]]
    assert whole[0] == "Traceback (most recent call last):"


def test_without_folding_every_line_is_shown(tmp_path: Path) -> None:
    lines, _ = told(tmp_path, "--no-fold")
    assert sorted(int(who) for who, what in lines if what == "two") == list(range(64))


@pytest.mark.parametrize(("fold", "shown"), [(True, ["0-2│ hello"]), (False, None)])
def test_launch_folds_unless_it_is_told_otherwise(capsys, fold: bool, shown) -> None:
    def hello() -> None:
        with allranks.session(cpu=True):
            allranks.synchronize()
            print("hello")

    allranks.launch(hello, ranks=3, fold=fold)
    lines = without_chatter(capsys.readouterr().out).splitlines()
    if fold:
        assert len(lines) <= 3
    assert sorted(lines) == (shown or ["0│ hello", "1│ hello", "2│ hello"]) or fold


def test_many_ranks_take_little_space_before_a_line() -> None:
    shown = [ranges(ranks, 3) for ranks in ([3], [0, 1, 2, 3, 7], [0, 1, 2, *range(10, 60, 2)])]
    assert shown == ["3", "0-3, 7", "0-2, 10, 12 and 23 more"]


def test_of_many_hosts_sixteen_are_listed() -> None:
    places = [(f"node{rank // 8:03}", rank) for rank in range(1024)]
    assert by_host(places[:16]) == "0-7 on node000; 8-15 on node001"
    assert "more" not in by_host(places[:128])
    assert by_host(places[:129]).endswith("120-127 on node015; and 1 more host, 1 rank")
    assert by_host(places).endswith("; and 112 more hosts, 896 ranks")
    assert by_host(places).count(" on ") == 16
