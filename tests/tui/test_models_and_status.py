"""`hearth models` and `hearth status`: tables for people, JSON for programs."""

from __future__ import annotations

import json

import pytest
from fake_box import MODEL, FakeBox
from hearth_process import hearth

from hearth_tui.cli import main

FAILED = {
    "id": "broken",
    "hearth": {"state": "failed", "error": "120 of\n480 \x1b[31mtensors", "error_code": "x"},
}
LOADING = {"id": "late", "hearth": {"state": "loading", "progress": 0.42}}


@pytest.fixture(autouse=True)
def _here(box: FakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_SOCKET", str(box.socket))


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}


def test_models_as_a_table(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    box.models = [MODEL, FAILED, LOADING]
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    table = rows(text)
    assert table["canary"] == [
        "ready",
        "gguf",
        "llama",
        "812k",
        "F16",
        "2048",
        "x",
        "16",
        "01234567",
    ]
    assert table["broken"] == ["failed", *"------"]
    assert table["late"][:2] == ["loading", "42%"]
    assert text.splitlines()[-1] == "broken: 120 of 480 [31mtensors"


def test_models_that_others_guess_for(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    large = {"id": "large", "hearth": {"state": "ready", "draft": "small"}}
    lost = {"id": "lost", "hearth": {"draft": "small", "draft_failure": "no\nroom"}}
    box.models = [MODEL, large, lost]
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["large: small guesses for it", "lost: small guesses no more: no room"]


def test_models_as_json(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    box.models = [MODEL, LOADING]
    assert main(["models", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["id"] == "canary"
    assert MODEL["hearth"].items() <= first["hearth"].items()
    assert second["hearth"]["progress"] == 0.42
    assert second["hearth"]["digest"] is None


def test_a_box_without_models(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    box.models = []
    assert main(["models"]) == 0
    assert capsys.readouterr() == ("", "the box has no models\n")
    assert main(["status"]) == 0


def test_status_as_a_table(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["box"] == [f"unix:{box.socket}"]
    assert table["version"] == ["0.1.0"]
    assert table["ready"] == ["yes"]
    assert table["canary"] == [
        "ready",
        "1",
        "2",
        "16.4k/32.8k",
        "3",
        "123",
        "MiB",
    ]


def test_status_of_a_box_that_is_not_ready(
    box: FakeBox, capsys: pytest.CaptureFixture[str]
) -> None:
    box.ready = {
        "ready": False,
        "draining": False,
        "models": [
            {"name": "late", "state": "loading", "progress": 0.42},
            {"name": "canary", "state": "ready"},
        ],
    }
    assert main(["status"]) == 0
    assert "ready    no (late loading 42%)\n" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["ready"], status["version"]) == (False, "0.1.0")
    assert status["models"][0]["hearth"]["n_waiting"] == 2
    box.ready = {"ready": False, "draining": True, "models": []}
    assert main(["status"]) == 0
    assert "ready    no (shutting down)\n" in capsys.readouterr().out


def test_a_wide_table_in_a_pipe_is_not_cut(box: FakeBox) -> None:
    name = "a-very-long-name-of-a-model-" * 5
    box.models = [{**MODEL, "id": name}]
    done = hearth("--url", box.url, "models", COLUMNS="40")
    assert f"{name}  ready" in done.stdout.decode()


def test_something_else_answers(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", f"{box.url}/elsewhere", "status"]) == 1
    line = capsys.readouterr().err
    assert (
        line == f"hearth: {box.url}/elsewhere/readyz does not answer like a Hearth box (HTTP 404)\n"
    )


def test_adapters_are_listed_but_their_model_does_the_work(
    box: FakeBox, capsys: pytest.CaptureFixture[str]
) -> None:
    box.models = [MODEL, {**MODEL, "id": "canary:x", "parent": "canary"}]
    assert main(["models"]) == 0
    assert {"canary", "canary:x"} <= set(rows(capsys.readouterr().out))
    assert main(["status"]) == 0
    table = rows(capsys.readouterr().out)
    assert "canary" in table
    assert "canary:x" not in table
