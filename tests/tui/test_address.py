"""Where the box is looked for, in which order."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hearth_tui.address import (
    DEFAULT_URL,
    SYSTEM_SOCKET,
    Address,
    find_address,
    is_socket,
    parse_url,
)
from hearth_tui.errors import UsageError


def all_there(path: Path) -> bool:
    return True


def nothing_there(path: Path) -> bool:
    return False


def test_the_order_of_places() -> None:
    places = {"HEARTH_URL": "http://b:1", "HEARTH_SOCKET": "/d", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert find_address("http://a:1", "/c", places, all_there) == Address("http://a:1")
    assert find_address(None, "/c", places, all_there).socket == Path("/c")
    assert find_address(None, None, places, all_there) == Address("http://b:1")
    del places["HEARTH_URL"]
    assert find_address(None, None, places, all_there).socket == Path("/d")
    del places["HEARTH_SOCKET"]
    assert find_address(None, None, places, all_there).socket == SYSTEM_SOCKET
    users = Path("/run/user/7/hearthd.sock")
    assert find_address(None, None, places, lambda path: path == users).socket == users
    assert find_address(None, None, places, nothing_there) == Address(DEFAULT_URL)
    assert find_address(None, None, {}, nothing_there) == Address(DEFAULT_URL)


def test_an_empty_variable_counts_as_none() -> None:
    empty = {"HEARTH_URL": "", "HEARTH_SOCKET": "", "XDG_RUNTIME_DIR": ""}
    assert find_address(None, None, empty, nothing_there) == Address(DEFAULT_URL)


def test_a_path_that_is_no_socket_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not is_socket(tmp_path / "file")
    assert not is_socket(tmp_path / "absent")
    assert not is_socket(tmp_path / "file" / "below")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        assert is_socket(tmp_path / "s")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://box:4327", "http://box:4327"),
        ("http://box:4327/", "http://box:4327"),
        ("http://box:4327/v1/", "http://box:4327"),
        ("https://box/hearth", "https://box/hearth"),
        ("box:4327", "http://box:4327"),
        ("[::1]:4327", "http://[::1]:4327"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert parse_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "ftp://box",
        "http://",
        "http://box:notaport",
        "http://box:99999",
        "http://b/?q=1",
        "a b",
        "[::1",
    ],
)
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(UsageError):
        parse_url(text)


def test_without_a_runtime_folder_the_socket_lies_with_the_state() -> None:
    there = Path("/home/u/.local/state/hearthd/hearthd.sock")
    assert find_address(None, None, {"HOME": "/home/u"}, there.__eq__).socket == there
    there = Path("/state/hearthd/hearthd.sock")
    places = {"HOME": "/home/u", "XDG_STATE_HOME": "/state"}
    assert find_address(None, None, places, there.__eq__).socket == there
