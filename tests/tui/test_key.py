"""The key for a box: where it is taken from, that it goes with every request, and what is said of a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_box import FakeBox
from hearth_process import hearth

from hearth_tui.errors import UsageError
from hearth_tui.key import VARIABLE, find_key

SECRET = "hk-0123456789abcdef"


def test_a_file_goes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {SECRET}\n")
    assert find_key(str(file), {VARIABLE: "other"}) == SECRET
    assert find_key(None, {VARIABLE: f"{SECRET}\n"}) == SECRET
    assert find_key(None, {VARIABLE: " "}) is None
    assert find_key(None, {}) is None


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", "schlüssel".encode()])
def test_a_file_without_a_key(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="no key in it") as refused:
        find_key(str(file), {})
    assert "words" not in str(refused.value)
    with pytest.raises(UsageError, match="cannot be read"):
        find_key(str(tmp_path / "nowhere"), {})


@pytest.mark.parametrize("command", ["ask", "ask --no-stream", "models", "status", "chat"])
def test_the_key_goes_with_every_request(box: FakeBox, tmp_path: Path, command: str) -> None:
    box.key = SECRET
    file = tmp_path / "key"
    file.write_text(SECRET)
    flags = [*command.split(), "--url", box.url]
    done = hearth("--api-key-file", str(file), *flags, stdin=b"hi\n")
    assert (done.returncode, done.stderr) == (0, b"")
    done = hearth(*flags, stdin=b"hi\n", HEARTH_API_KEY=SECRET)
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(box.authorizations) == {f"Bearer {SECRET}"}
    assert len(box.authorizations) >= 2


def test_what_is_said_of_a_refusal(box: FakeBox) -> None:
    box.key = SECRET
    without = hearth("--url", box.url, "models")
    assert without.returncode == 1
    assert without.stderr.startswith(b"hearth: the box wants a key: put it into $HEARTH_API_KEY")
    wrong = hearth("--url", box.url, "models", HEARTH_API_KEY="hk-wrong")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith(b"hearth: the box does not take the key that was sent")
    assert b"hk-wrong" not in wrong.stderr


@pytest.mark.parametrize("flags", [["--api-key", SECRET], [f"--api-key={SECRET}"]])
@pytest.mark.parametrize("comes_first", [True, False])
def test_a_key_on_the_command_line_is_refused(
    box: FakeBox, flags: list[str], comes_first: bool
) -> None:
    command = ["models", "--url", box.url]
    done = hearth(*(flags + command if comes_first else command + flags))
    assert done.returncode == 2
    assert b"others on this machine can read a key" in done.stderr
    assert b"--api-key-file FILE" in done.stderr
    assert SECRET.encode() not in done.stderr
    assert box.authorizations == []
