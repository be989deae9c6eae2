"""However much the ranks of a test write, the session keeps little of it."""

from __future__ import annotations

import re

import pytest

from allranks._pytest.output_limits import GAP, OF_FAILED, OF_PASSED, OutputEnds, shortened
from nested import Run, run

MEGABYTES = 20

LOUD = f"""
    def loud():
        print("the first line")
        line = "." * 99 + "\\n"
        for _ in range({MEGABYTES}):
            sys.stdout.write(line * 10_000)
        print("the last line")

    @pytest.mark.ranks(2)
    @pytest.mark.parametrize("number", range(4))
    def test_loud(number):
        loud()

    @pytest.mark.ranks(2)
    def test_loud_and_fails(world):
        loud()
        assert world.rank == 0

    @pytest.mark.ranks(2)
    def test_loud_and_dies(world):
        loud()
        sys.stdout.flush()
        if world.rank == 1:
            os._exit(1)

    @pytest.mark.ranks(2)
    def test_loud_in_a_line(world):
        for _ in range({MEGABYTES}):
            sys.stdout.write("." * 1_000_000)
        assert False

    @pytest.mark.ranks(2)
    def test_is_loud_where_pytest_does_not_hear(world):
        os.write(os.dup(1), b"the first line\\n")
        for _ in range({MEGABYTES}):
            os.write(1, (b"." * 99 + b"\\n") * 10_000)
        os.write(1, b"the last line\\n")
        assert False
"""

MEASURED = """
import re

def pytest_unconfigure(config):
    if not config.pluginmanager.hasplugin("allranks._pytest.item"):
        with open("/proc/self/status") as file:  # getrusage counts what ran before exec, too.
            (kilobytes,) = re.findall(r"VmHWM:\\s+(\\d+)", file.read())
        print("peak MB:", int(kilobytes) // 1024)
"""


@pytest.fixture(scope="module", params=["fd", "sys"])
def loud(request, tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("loud")
    (directory / "measured.py").write_text(MEASURED)
    return run(directory, LOUD, f"--capture={request.param}", "-p", "measured")


def _missing(text: str) -> int:
    gaps = re.findall(GAP.pattern.decode(), text)
    assert len(gaps) == 1
    return int(gaps[0])


def _kept(text: str) -> int:
    return len(re.sub(GAP.pattern.decode(), "", text))


def test_the_ends_of_a_failed_tests_output_are_kept(loud) -> None:
    written = MEGABYTES * 1_000_000 + len("the first line\nthe last line\n")
    for rank in (0, 1):
        text = loud.section("test_loud_and_fails", f"Captured stdout call, rank {rank}")
        assert text.startswith("the first line\n....")
        assert text.endswith("....\nthe last line\n")
        assert OF_FAILED / 2 < len(text) < OF_FAILED + 100
        assert _missing(text) + _kept(text) == written


def test_little_is_kept_of_a_passed_tests_output(loud) -> None:
    for number in range(4):
        for report in loud.all_reports(f"test_loud[{number}]"):
            for _, text in report["sections"]:
                assert len(text) < OF_PASSED + 100
                assert text.startswith("the first line\n....")
                assert text.endswith("....\nthe last line\n")
                assert _missing(text) > 0.99 * MEGABYTES * 1_000_000


def test_the_ends_are_kept_of_what_a_dead_rank_wrote(loud, request) -> None:
    sections = dict(loud.report("test_loud_and_dies")["sections"])
    text = sections.get("Captured stdout call, rank 1", "")
    if request.node.callspec.params["loud"] == "fd":  # The other ends with the rank.
        assert text.endswith("the last line\n")
    assert len(text) < OF_FAILED + 100


def test_a_long_line_is_cut_too(loud) -> None:
    for _, text in loud.report("test_loud_in_a_line")["sections"]:
        assert len(text) < OF_FAILED + 100


def test_the_ends_are_kept_of_what_pytest_does_not_capture(loud) -> None:
    sections = dict(loud.report("test_is_loud_where_pytest_does_not_hear")["sections"])
    for rank in (0, 1):
        (text,) = [text for name, text in sections.items() if name.endswith(f"rank {rank}")]
        assert len(text) < OF_FAILED + 100
        assert text.endswith("the last line\n")


def test_the_session_stays_small(loud) -> None:
    (peak,) = re.findall(r"peak MB: (\d+)", loud.output)
    assert int(peak) < 300  # Without torch, and with less than any one rank has written.


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_the_ends_count_what_is_missing_however_it_comes(size) -> None:
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    ends = OutputEnds(1000)
    for start in range(0, len(text), size):
        ends.write(text[start : start + size])
    kept = ends.text()
    assert kept.startswith("line 0\nline 1\n")
    assert kept.endswith("line 19999\n")
    assert _missing(kept) + _kept(kept) == len(text)


def test_a_shortened_text_can_be_shortened_again() -> None:
    text = "".join(f"line {number}\n" for number in range(20_000))
    twice = shortened(shortened(text, 4000), 400)
    assert _missing(twice) + _kept(twice) == len(text)
    assert shortened("short", 400) == "short"
    assert shortened("é" * 300, 400) != "é" * 300
