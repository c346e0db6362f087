"""`hearth cache` against a real hearthd: warm, look, take along, drop, bring back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hearthd_process import Daemon, running

from hearth_tui.cache_warming import warm_requests
from hearth_tui.cli import main
from hearth_tui.errors import UsageError

QUESTIONS = [
    json.dumps("copy: abc"),
    json.dumps({"question": "copy: xyz", "max_tokens": 4}),
    json.dumps({"messages": [{"role": "user", "content": "copy: q"}], "max_tokens": 4}),
    json.dumps({"prompt": "copy: abc\n", "max_tokens": 4, "seed": 7}),
    json.dumps(
        {"custom_id": "x", "url": "/v1/completions", "body": {"prompt": "x", "max_tokens": 2}}
    ),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("d")
    with running(folder, "--set", "models.m.path=canary") as daemon:
        daemon.until_ready()
        yield daemon


@pytest.fixture(autouse=True)
def here(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_URL", f"http://{daemon.address()}")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(QUESTIONS) + "\n\n")
    return file


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["cache", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_from_cold_to_warm_and_over_to_another_box(
    daemon: Daemon, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "warm", questions) == "5 computed, 0 known before, 0 not kept, 0 failed\n"
    assert said(capsys, "warm", questions) == "0 computed, 5 known before, 0 not kept, 0 failed\n"

    stats = said(capsys, "stats")
    assert stats.startswith("5 answers, ")
    assert "m: 5 HIT, 5 MISS; spared " in stats
    assert "key:anonymous" in stats
    summary = json.loads(said(capsys, "stats", "--json"))
    assert summary["results"] == {"m": {"MISS": 5, "HIT": 5}}

    daemon.until(lambda: len(answers(capsys)) == 5)
    first = answers(capsys)[0]
    assert first["hits"] == 1
    assert {one["question"] for one in answers(capsys)} >= {"copy: abc", "copy: xyz", "x"}
    assert first["key"][:12] in said(capsys, "ls")
    assert said(capsys, "ls", "--key", first["key"]).count("\n") == 2

    exported = tmp_path / "answers.ndjson"
    assert said(capsys, "export", exported) == ""
    assert exported.read_bytes().count(b"\n") == 5
    assert exported.stat().st_mode & 0o777 == 0o600

    assert said(capsys, "drop", "--key", first["key"][:8]) == "1 dropped\n"
    assert said(capsys, "drop", "--model", "nobody") == "0 dropped\n"
    assert said(capsys, "drop", "--all") == "4 dropped\n"
    assert said(capsys, "warm", questions).startswith("5 computed")
    said(capsys, "drop", "--model", "m")
    assert said(capsys, "import", exported) == "5 read, 5 kept\n"
    assert said(capsys, "import", exported) == "5 read, 5 kept\n"
    assert said(capsys, "warm", questions) == "0 computed, 5 known before, 0 not kept, 0 failed\n"


def answers(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(said(capsys, "ls", "--json"))
    return read


def test_what_cannot_be_asked_is_told_and_the_rest_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "a", "max_tokens": "many"}\n{"prompt": "b", "max_tokens": 2}\n')
    assert main(["cache", "warm", str(file)]) == 1
    told = capsys.readouterr()
    assert "max_tokens" in told.err
    assert told.out.endswith("1 failed\n")


def test_a_damaged_export_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answers.ndjson"
    file.write_text('{"key": "AAAA"}\n')
    assert main(["cache", "import", str(file)]) == 1
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drop"], "say which answers"),
        (["warm"], "say which FILE"),
        (["import", "/nowhere"], "no such file"),
        (["burn"], "invalid choice"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_lines_become_requests() -> None:
    requests = list(warm_requests([line.encode() for line in QUESTIONS], "m"))
    assert [request.path.rpartition("/v1/")[2] for request in requests] == [
        "chat/completions", "chat/completions", "chat/completions", "completions", "completions",
    ]  # fmt: skip
    assert [request.body.get("temperature") for request in requests] == [0, 0, 0, None, 0]
    assert requests[1].body["max_tokens"] == 4


@pytest.mark.parametrize(
    "line", ["{", "3", "{}", '{"url": "/v1/embeddings", "body": {}}', '{"question": 5}']
)
def test_lines_that_are_none(line: str) -> None:
    with pytest.raises(UsageError, match="line 2"):
        list(warm_requests([b"", line.encode()], "m"))
