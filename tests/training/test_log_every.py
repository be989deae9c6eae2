"""What a loop shows: lines in a pipe, a bar on a terminal, and nothing but the items elsewhere."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import types

import pytest
import torch

from allranks._training import loop_state
from allranks.meters import MetricLogger, SmoothedValue

NUMBERED = re.compile(r"\[ *(\d+)/(\d+|\?)\]")


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        fake = types.SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(loop_state, "time", fake)

    def slow(self, items, seconds):
        for item in items:
            self.now += seconds
            yield item


class Sized:
    """Items with a length that is told, and need not be true."""

    def __init__(self, items, length) -> None:
        self.items, self.length = items, length

    def __iter__(self):
        return iter(self.items)

    def __len__(self) -> int:
        return self.length


def lines_of(capsys, iterable, print_freq, header=None):
    """The items that come of a loop, and the lines that it prints."""
    items = list(MetricLogger("  ").log_every(iterable, print_freq, header))
    return items, capsys.readouterr().out.splitlines()


def numbers_in(lines):
    return [int(NUMBERED.search(line)[1]) for line in lines[:-1]]


def test_the_lines_have_the_originals_form(monkeypatch, capsys) -> None:
    clock, logger = FakeClock(monkeypatch), MetricLogger(delimiter="  ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.6f}"))
    loader = Sized(clock.slow(range(12), 1.0), 12)
    for item in logger.log_every(loader, 10, header="Epoch: [3]"):
        clock.now += 2.0
        logger.update(loss=item, lr=0.1)
    costs = "  time: 3.0000  data: 1.0000"
    assert capsys.readouterr().out.splitlines() == [
        f"Epoch: [3]  [ 0/12]  eta: 0:00:33  lr: 0.100000  loss: 0.0000 (0.0000){costs}",
        f"Epoch: [3]  [10/12]  eta: 0:00:03  lr: 0.100000  loss: 5.0000 (5.0000){costs}",
        f"Epoch: [3]  [11/12]  eta: 0:00:00  lr: 0.100000  loss: 5.0000 (5.5000){costs}",
        "Epoch: [3] Total time: 0:00:36 (3.0000 s / it)",
    ]


def test_the_most_memory_on_cuda_is_told(monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    _, lines = lines_of(capsys, range(1), 1)
    assert lines[0].endswith("  max mem: 3")


@pytest.mark.parametrize(
    ("count", "print_freq", "expected"),
    [
        (7, 3, [0, 3, 6]),
        (8, 3, [0, 3, 6, 7]),
        (3, 1, [0, 1, 2]),
        (3, 100, [0, 2]),
        (5, 2.5, [0, 4]),
        (1, 10, [0]),
        (5, 0, [4]),
        (0, 1, []),
        (0, 0, []),
    ],
)
def test_which_items_are_shown(capsys, count, print_freq, expected) -> None:
    """The same ones where the length is not known, or not true."""
    for iterable in (range(count), iter(range(count)), Sized(range(count), count + 2)):
        items, lines = lines_of(capsys, iterable, print_freq, "Test:")
        assert items == list(range(count))
        assert numbers_in(lines) == expected
        assert lines[-1].startswith("Test: Total time: 0:00:00 (")


def test_no_length_and_no_items_are_told_as_such(capsys) -> None:
    _, lines = lines_of(capsys, iter("ab"), 1)
    assert lines[0].startswith("  [0/?]  eta: ?    time: 0.")
    _, lines = lines_of(capsys, [], 1)
    assert lines == [" Total time: 0:00:00 (nan s / it)"]
    _, lines = lines_of(capsys, Sized("abc", 1), 0)
    assert numbers_in(lines) == [0, 2]
    assert "eta: 0:00:00" in lines[1]


def test_a_loop_that_is_left_prints_no_more(capsys) -> None:
    logger = MetricLogger()

    def divide() -> None:
        for item in logger.log_every(range(5), 2):
            _ = 1 / (item - 1)

    for item in logger.log_every(range(5), 2):
        if item == 3:
            break
    with pytest.raises(ZeroDivisionError):
        divide()
    assert [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()] == [
        "[0/5]",
        "[2/5]",
        "[0/5]",
    ]


def test_what_the_iterable_raises_goes_on() -> None:
    def failing():
        yield 1
        raise OSError("no such shard")

    loop = MetricLogger().log_every(failing(), 1)
    assert next(loop) == 1
    with pytest.raises(OSError, match="no such shard"):
        next(loop)


def test_a_negative_frequency_is_refused() -> None:
    with pytest.raises(ValueError, match="log_every: print_freq=-1 is negative"):
        next(MetricLogger().log_every(range(3), -1))


def test_the_programs_own_print_gets_the_lines(monkeypatch, capsys) -> None:
    """As in copies that put the time of day before each line."""
    told = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: told.append(words))
    lines_of(capsys, range(1), 1, "Epoch")
    assert [text[0].split()[0] for text in told] == ["Epoch", "Epoch"]


@pytest.mark.ranks(1, 2, 3, 4)
def test_rank_0_alone_prints(world, capfd) -> None:
    items = list(MetricLogger().log_every(range(3), 1, "Epoch"))
    assert items == [0, 1, 2]
    printed = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == (["Epoch"] * 4 if world.rank == 0 else [])


# In processes of their own.

BEGIN = """
from allranks.meters import MetricLogger
from allranks._training import loop_bar
loop_bar.PAUSE = 0.0  # Each item is drawn.
logger = MetricLogger(delimiter="  ")
logger.update(loss=1.5)
"""

LOOP = """
for item in logger.log_every(range(4), 2, "Epoch [0]"):
    logger.update(loss=item)
    print(f"item {item} has come")
"""


def on_a_terminal(program: str, columns: int = 100, **environ: str) -> tuple[str, int]:
    """What a program writes to a terminal, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        variables = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **environ}
        os.execve(sys.executable, [sys.executable, "-c", BEGIN + program], variables)
    written = b""
    with contextlib.suppress(OSError):  # EIO, when the program has ended.
        while piece := os.read(terminal, 65536):
            written += piece
    os.close(terminal)
    return written.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def screen(written: str) -> list[str]:
    """The lines that are left on a terminal of any height."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def assert_given_back(written: str) -> None:
    """The cursor can be seen again."""
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_a_pipe_has_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + LOOP], check=True, capture_output=True, text=True
    )
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert done.stderr == ""
    begins = [line[:14] for line in done.stdout.splitlines()]
    expected = ["item 0 has com", "Epoch [0]  [0/", "item 1 has com", "item 2 has com"]
    assert begins == [
        *expected,
        "Epoch [0]  [2/",
        "item 3 has com",
        "Epoch [0]  [3/",
        "Epoch [0] Tota",
    ]


def test_a_terminal_has_a_bar_and_whole_lines_above_it() -> None:
    written, code = on_a_terminal(LOOP + "print('after')")
    assert code == 0
    assert_given_back(written)
    *prints, bar, meters, total, after, _ = screen(written)
    assert prints == [f"item {item} has come" for item in range(4)]
    assert re.fullmatch(r"Epoch \[0\] ━+ 4/4 eta: 0:00:00  time: \d\.\d{4}  data: 0\.\d{4}", bar)
    assert len(bar) == 100
    assert meters == "loss: 1.5000 (1.5000)"
    assert re.fullmatch(r"Epoch \[0\] Total time: 0:00:00 \(\d\.\d{4} s / it\)", total)
    assert after == "after"
    assert "2/4 eta" in written


def test_many_meters_take_several_lines() -> None:
    names = [f"loss_of_the_layer_{i}" for i in range(8)]
    program = f"logger.update(**dict.fromkeys({names}, 1.0))"
    written, _ = on_a_terminal(f"{program}{LOOP}", columns=60)
    shown = screen(written)
    assert len([line for line in shown if "loss_of_the_layer" in line]) > 2
    assert all(any(name in line for line in shown) for name in names)
    assert all(len(line) <= 60 for line in shown)


@pytest.mark.parametrize(
    ("leaving", "code", "last"),
    [("break", 0, "after"), ("raise ValueError('bad')", 1, "ValueError: bad")],
)
def test_a_loop_that_is_left_leaves_the_terminal_clean(leaving, code, last) -> None:
    """Its last state stays, and what comes afterwards begins a line of its own."""
    program = f"{LOOP}    if item == 2: {leaving}\nprint('after')"
    written, ended = on_a_terminal(program)
    assert ended == code
    assert_given_back(written)
    *_, end, _ = shown = screen(written)
    assert end == last
    [bar] = [line for line in shown if "━" in line]
    assert "━ 2/4 eta: " in bar
    assert not any("Total time" in line for line in shown)


def test_an_unfinished_line_of_the_program_is_not_lost() -> None:
    program = (
        "import sys\n"
        "for i in logger.log_every('ab', 1):\n"
        "    print(i, end='')\n"
        "    kept = sys.stdout  # As a handler of logging does.\n"
        "print('after')"
    )
    *_, total, after, _ = shown = screen(on_a_terminal(program)[0])
    assert shown[0] == "ab"
    assert "Total time" in total
    assert after == "after"


def test_a_loop_within_a_loop_prints_lines_above_the_bar() -> None:
    program = (
        "for i in logger.log_every(range(2), 1, 'outer'):\n"
        "    for j in logger.log_every(range(2), 0, 'inner'): pass\n"
    )
    written, _ = on_a_terminal(program)
    shown = screen(written)
    assert [line.split()[0] for line in shown[:4]] == ["inner"] * 4
    assert re.match(r"outer ━+ 2/2", shown[4])
    assert_given_back(written)


@pytest.mark.parametrize(
    ("items", "expected"),
    [("iter('ab')", "Test: +2/[?] eta: [?]"), ("[]", "Test: ━+ 0/0 eta: [?]")],
)
def test_a_terminal_takes_any_iterable(items, expected) -> None:
    written, code = on_a_terminal(f"list(logger.log_every({items}, 1, 'Test:'))")
    assert code == 0
    assert re.match(expected, screen(written)[0])


def test_a_terminal_that_cannot_draw_has_plain_lines() -> None:
    written, _ = on_a_terminal(LOOP, TERM="dumb")
    assert "\x1b" not in written
    assert "Epoch [0]  [2/4]" in written
