"""`hearthd simulate`: its two files, and what is wrong with them in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hearthd.main import main

FLEET = """
concurrency = 4
[model]
layers = 8
layer = "100MiB"
parameters = 1e9
outer = "100MiB"
kv_bytes = 1024
width = 1024
[[box]]
count = 3
devices = [{name = "a", memory = "2GiB", gb_per_second = 100, tflops = 10}]
"""
LINE = '{"at_seconds": 0.5, "prompt_tokens": 30, "output_tokens": 20}\n'


def run(tmp_path: Path, fleet: str, trace: str) -> int:
    (tmp_path / "fleet.toml").write_text(fleet)
    (tmp_path / "trace.jsonl").write_text(trace)
    return main(["simulate", str(tmp_path / "fleet.toml"), str(tmp_path / "trace.jsonl"), "--json"])


def test_a_fleet_answers_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, FLEET, LINE * 9) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["boxes"], found["requests"], found["unserved"]) == (3, 9, 0)
    assert found["tokens_per_second"] > 0
    assert found["ttft_p50_seconds"] > 0


@pytest.mark.parametrize(
    ("fleet", "trace", "says"),
    [
        (FLEET.replace("layers", "layrs"), LINE, "layrs"),
        (FLEET.replace("2GiB", "much"), LINE, "'much' is no size"),
        (FLEET, LINE + "{}\n", "trace.jsonl:2"),
        (
            FLEET + '[[failure]]\nbox = 3\ndevice = "a"\nat_seconds = 1\n',
            LINE,
            "box 3 has no device",
        ),
        ("[", LINE, "fleet.toml"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fleet: str, trace: str, says: str
) -> None:
    assert run(tmp_path, fleet, trace) == 1
    assert says in capsys.readouterr().err


def test_a_fleet_that_cannot_hold_the_model_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, FLEET.replace("2GiB", "500MiB"), LINE) == 1
    assert json.loads(capsys.readouterr().out)["unserved"] == 1
