"""`hearth keys` and `hearth audit` against the real addresses, and what they say no to."""

from __future__ import annotations

import json

import pytest
from fake_box import FakeBox
from hearth_process import hearth

from hearth_tui.commands.keys import expiry
from hearth_tui.errors import UsageError

INFO = {
    "name": "ann", "source": "store", "role": "user", "class": "normal", "weight": 1.0,
    "limits": {"concurrency": 3, "tokens_per_minute": 60000}, "models": ["a", "b"],
    "created": 1.8e9, "expires": 1.8e9, "expired": True, "last_used": None, "of a newer box": 1,
}  # fmt: skip


def test_a_new_key_is_alone_on_standard_output(box: FakeBox) -> None:
    box.answers["POST /api/v1/keys"] = (201, {"key": "hearth_x", "info": INFO})
    done = hearth(
        "--socket", str(box.socket), "keys", "add", "ann", "--role", "user", "-m", "a", "-m", "b",
        "--concurrency", "3", "--class", "batch", "--expires", "2w",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"hearth_x\n")
    assert box.requests == [
        {
            "name": "ann", "role": "user", "class": "batch", "limits": {"concurrency": 3},
            "models": ["a", "b"], "expires_seconds": 1209600.0,
        }
    ]  # fmt: skip


def test_keys_in_a_table(box: FakeBox) -> None:
    box.answers["GET /api/v1/keys"] = (200, {"keys": [INFO]})
    done = hearth("--socket", str(box.socket), "keys", "ls", TZ="UTC")
    row = done.stdout.decode().splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        "ann", "user", "normal", "a, b", "3 at once, 60k tokens/min", "expired 2027-01-15 08:00",
        "-", "store",
    ]  # fmt: skip


def test_revoking_the_last_key_is_told(box: FakeBox) -> None:
    box.answers["DELETE /api/v1/keys/a%2Fn"] = (
        200, {"name": "a/n", "requests_ended": 2, "keys_left": 0},
    )  # fmt: skip
    done = hearth("--socket", str(box.socket), "keys", "revoke", "a/n")
    assert done.stdout == b"a/n revoked, 2 requests ended\n"
    assert b"no key is left" in done.stderr


def test_what_operators_did(box: FakeBox) -> None:
    action = {
        "at": 1.8e9, "who": "ann", "origin": "10.0.0.1", "action": "POST /x", "detail": "\x1b[1m",
        "status": 403, "request_id": "r",
    }  # fmt: skip
    box.answers["GET /api/v1/audit"] = (200, {"actions": [action]})
    done = hearth("--socket", str(box.socket), "audit", TZ="UTC")
    assert done.stdout.decode().splitlines()[1].split() == [
        "2027-01-15", "08:00:00", "ann", "10.0.0.1", "403", "POST", "/x", "[1m",
    ]  # fmt: skip
    done = hearth("--socket", str(box.socket), "audit", "--json")
    assert json.loads(done.stdout) == {"actions": [action]}


def test_forbidden_is_one_line(box: FakeBox) -> None:
    error = {"message": "bob has the role user; this takes operator", "code": "role_not_allowed"}
    box.answers["GET /api/v1/keys"] = (403, {"error": error})
    done = hearth("--socket", str(box.socket), "keys", "ls")
    assert (done.returncode, done.stderr.decode()) == (1, f"hearth: {error['message']}\n")


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "90y", "tomorrow"])
def test_expiries_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--expires"):
        expiry(text)


def test_expiries() -> None:
    assert expiry(None) == (None, None)
    assert expiry("90d") == (None, 7776000.0)
    assert expiry("2027-01-31T18:00:00+00:00")[0] is not None


@pytest.mark.parametrize(
    "arguments", [["keys"], ["keys", "add"], ["keys", "revoke"], ["keys", "rm"]]
)
def test_what_is_missing(arguments: list[str]) -> None:
    done = hearth(*arguments, HEARTH_URL="http://127.0.0.1:1")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
