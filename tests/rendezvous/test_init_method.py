"""The URLs of get_init_method, written and read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch.distributed as dist

import allranks
from allranks._rendezvous.init_method import parse
from allranks.errors import ConfigError


def test_tcp_takes_the_first_host_of_the_list(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")  # No scontrol to run.
    url = allranks.get_init_method("tcp", 4, 3, node_list="nid[0099-0101],x[1-2]")
    assert url == "tcp://nid0099:13356?world_size=4&rank=3"


def test_tcp_in_a_world_of_one_takes_a_free_port() -> None:
    parsed = parse(allranks.get_init_method("tcp", 1, 0, node_list="n1"))
    assert parsed.port != allranks.DISTRIBUTED_PORT
    assert (parsed.host, parsed.world_size, parsed.rank) == ("n1", 1, 0)


@pytest.mark.parametrize("address", ["2001:db8::7", "[2001:db8::7]"])
def test_ipv6_stands_in_brackets(address: str) -> None:
    url = allranks.get_init_method("tcp", 2, 1, node_list=address)
    assert url == "tcp://[2001:db8::7]:13356?world_size=2&rank=1"
    assert parse(url).host == "2001:db8::7"


@pytest.mark.parametrize(
    "name", ["plain", "with space", "a#b", "c?d", "100%25", "e%20f", "ü;x=1&y"]
)
def test_a_file_name_survives_the_url(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / name
    parsed = parse(allranks.get_init_method("file", 2, 1, filename=str(path)))
    assert (parsed.path, parsed.world_size, parsed.rank) == (str(path), 2, 1)


def test_a_relative_file_becomes_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = allranks.get_init_method("file", 2, 0, filename="meet")
    assert url == f"file://{tmp_path}/meet?world_size=2&rank=0"


def test_torch_takes_the_urls(tmp_path: Path) -> None:
    url = allranks.get_init_method("file", 1, 0, filename=str(tmp_path / "a b"))
    dist.init_process_group("gloo", init_method=url)
    assert dist.get_world_size() == 1
    dist.destroy_process_group()


def test_what_is_left_out_comes_from_the_environment(monkeypatch) -> None:
    assert "world_size=1&rank=0" in allranks.get_init_method("file", None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert allranks.get_init_method("tcp", None, node_list="n1").endswith("world_size=3&rank=2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("env", 2, 0), "'env'"),
        (("tcp", 2, 0), "node_list"),
        (("tcp", 2, 2, "n1"), "rank=2"),
        (("tcp", 0, 0, "n1"), "world_size=0"),
        (("tcp", 2, -1, "n1"), "rank=-1"),
        (("tcp", 2, 0, "n[1"), r"n\[1"),
        (("file", 2, 0), "filename"),
    ],
)
def test_bad_input_is_a_value_error_with_its_value(arguments: tuple, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        allranks.get_init_method(*arguments)


@pytest.mark.parametrize(
    "url",
    ["tcp://host", "tcp://:1", "file://host/path", "file://", "tcp://h:x", "tcp://h:1?rank=a"],
)
def test_a_malformed_url_is_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert url in str(caught.value)


def test_os_environ_get_or_throw(monkeypatch) -> None:
    monkeypatch.setenv("SOME_VARIABLE", "")
    assert allranks.os_environ_get_or_throw("SOME_VARIABLE") == ""
    assert "NO_SUCH" not in os.environ
    with pytest.raises(RuntimeError, match="NO_SUCH"):
        allranks.os_environ_get_or_throw("NO_SUCH")
