"""Slurm's host lists and task counts, by hand and against python-hostlist."""

import tracemalloc

import hostlist as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allranks._launchers import hostlist

LISTS = [
    ("n1", ["n1"]),
    ("n[1-2]", ["n1", "n2"]),
    ("rack[1-2]node[3-4]", ["rack1node3", "rack1node4", "rack2node3", "rack2node4"]),
    ("nid[0099-0101]", ["nid0099", "nid0100", "nid0101"]),
    ("n[099-1000]", [f"n{number:03d}" for number in range(99, 1001)]),
    ("n[5,3]", ["n5", "n3"]),
    ("node[1-2]-ib", ["node1-ib", "node2-ib"]),
    ("login,n[1,3-4],gpu07.cluster.example", ["login", "n1", "n3", "n4", "gpu07.cluster.example"]),
    ("a,a", ["a", "a"]),
    ("[1-2]", ["1", "2"]),
    ("a[1][2]", ["a12"]),
]

MALFORMED_LISTS = [
    ("", 0, "expected a host name"),
    ("a,", 2, "expected a host name"),
    (",a", 0, "expected a host name"),
    ("a,,b", 2, "expected a host name"),
    ("a b", 1, "expected a host name"),
    ("n[1-2", 1, "bracket without its partner"),
    ("n1-2]", 4, "bracket without its partner"),
    ("n[1-[2]]", 1, "bracket without its partner"),
    ("n[]", 2, "expected a number or a range"),
    ("n[1,]", 4, "expected a number or a range"),
    ("n[a]", 2, "expected a number or a range"),
    ("n[1-2-3]", 2, "expected a number or a range"),
    ("n[1-" + "9" * 5000 + "]", 2, "expected a number or a range"),
    ("n[5,3-1]", 4, "3-1 runs backwards"),
    ("n[1-100001]", 0, "100001 hosts"),
    ("n[1-100000],m", 0, "100001 hosts"),
    ("[1-999][1-999]", 0, "998001 hosts"),
]

MALFORMED_COUNTS = [
    ("", 0, "expected a count"),
    ("2,", 2, "expected a count"),
    ("2(x2", 0, "expected a count"),
    ("2,1(x0)", 2, "expected a count"),
    ("-1", 0, "expected a count"),
    ("2(x100001)", 0, "100001 hosts"),
]


def joined(characters, least, most):
    return st.lists(st.sampled_from(characters), min_size=least, max_size=most).map("".join)


numbers = st.integers(0, 12).map(str) | joined("019", 1, 4)
ranges = st.tuples(numbers, st.integers(0, 5)).map(lambda r: f"{r[0]}-{int(r[0]) + r[1]}")
brackets = st.lists(numbers | ranges, min_size=1, max_size=3).map(lambda r: f"[{','.join(r)}]")
plain = joined("ab19.-", 1, 4)
entries = st.lists(plain | brackets, min_size=1, max_size=3).map("".join)
lists = st.lists(entries, min_size=1, max_size=3).map(",".join)


@pytest.mark.parametrize(("text", "hosts"), LISTS, ids=lambda value: str(value)[:24])
def test_expands(text, hosts):
    """Each notation that Slurm prints, in the order written."""
    assert hostlist.expand(text) == hosts


@pytest.mark.parametrize(
    ("text", "position", "problem"), MALFORMED_LISTS, ids=lambda value: str(value)[:24]
)
def test_says_what_is_wrong_with_a_list_and_where(text, position, problem):
    """A malformed list names its text, the place and the problem."""
    with pytest.raises(ValueError, match="malformed list") as caught:
        hostlist.expand(text)
    assert f"{text!r:.120} at character {position}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize(("text", "position", "problem"), MALFORMED_COUNTS)
def test_says_what_is_wrong_with_counts_and_where(text, position, problem):
    """A malformed count names its text, the place and the problem."""
    with pytest.raises(ValueError, match="malformed list") as caught:
        hostlist.expand_counts(text)
    assert f"{text!r} at character {position}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["n[1-999999999999999]", "[1-9]" * 1000, "n[1-99999999],m[1-9]"])
def test_a_giant_list_is_refused_before_it_is_expanded(text):
    """The refusal takes no more memory than the text."""
    tracemalloc.start()
    with pytest.raises(ValueError, match="hosts, more than"):
        hostlist.expand(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@settings(deadline=None)
@given(lists)
def test_agrees_with_python_hostlist(text):
    """Same hosts in the same order; it removes duplicates unless told not to, we never do."""
    assert hostlist.expand(text) == oracle.expand_hostlist(text, allow_duplicates=True)


@settings(deadline=None)
@given(joined("an019-[],", 0, 12))
def test_accepts_nothing_that_python_hostlist_refuses_or_reads_otherwise(text):
    """Any text: a ValueError, or python-hostlist's result. We are stricter on empty entries."""
    try:
        hosts = hostlist.expand(text)
    except ValueError:
        return
    assert hosts == oracle.expand_hostlist(text, allow_duplicates=True)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_counts_survive_being_written_as_slurm_writes_them(counts):
    """Slurm joins equal neighbours into a run, and leaves single numbers alone."""
    runs = []
    for count in counts:
        if runs and runs[-1][0] == count:
            runs[-1][1] += 1
        else:
            runs.append([count, 1])
    text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in runs)
    assert hostlist.expand_counts(text) == counts


def test_counts():
    """The example of Slurm's manual."""
    assert hostlist.expand_counts("2(x2),1") == [2, 2, 1]


@pytest.mark.parametrize("text", ["a" * 60_000 + "[1-99999]", "[1-99999]" + "b" * 300])
def test_a_name_that_no_host_can_have_is_refused_before_it_is_repeated(text):
    tracemalloc.start()
    with pytest.raises(ValueError, match="characters, more than 255"):
        hostlist.expand(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
