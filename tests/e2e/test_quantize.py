"""`hearth quantize` as users run it: the folder, the table, refusals, Ctrl-C; and a daemon that serves the folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hearthd_process import hearthd, running

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

TEXT = "olive = 4821\nRepeat after me: the hearth is warm, 1 2 3. Count on: 37 38 39\n" * 4


def test_the_canary_in_8_bits_is_made_compared_and_served(short_path: Path) -> None:
    text, out = short_path / "text", short_path / "canary-int8"
    text.write_text(TEXT)
    command = [
        sys.executable,
        "-m",
        "hearth_tui",
        "quantize",
        "canary",
        "--to",
        "int8",
        "-o",
        str(out),
    ]
    done = subprocess.run(
        [*command, "--report", str(text), "--threads", "1", "--json"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, compared = map(json.loads, done.stdout.splitlines())
    assert made["type"] == "made"
    assert made["scheme"] == "INT8"
    assert made["n_bytes"] < made["source_bytes"] / 3
    (row,) = compared["rows"]
    assert row["name"] == "this checkpoint"
    assert row["mean_kl"] < 0.02
    assert row["same_best"] > 0.85
    with running(short_path, "--model", f"small={out}") as daemon:
        daemon.until(lambda: daemon.model("small")["state"] == "ready")
        assert daemon.model("small")["backend"] == "onnx"
    again = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert again.returncode == 1
    assert again.stderr == f"hearthd: {out} is there already; --force replaces it\n"


def test_what_cannot_be_quantized_is_told(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nothing")
    done = hearthd("quantize", str(bad), "--to", "int4", "-o", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"hearthd: {bad}: not a GGUF file")
    assert not (tmp_path / "out").exists()
    wrong = hearthd("quantize", "canary", "--to", "int4")
    assert wrong.returncode == 2
    assert "--to and -o go together" in wrong.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "made" / "out"
    command = [
        sys.executable,
        "-m",
        "hearthd",
        "quantize",
        "canary",
        "--to",
        "int4",
        "-o",
        str(out),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        child.stderr.readline()  # "quantizing ..."
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert b"interrupted" in said
    assert time.monotonic() - began < 20
    left = list((tmp_path / "made").iterdir()) if (tmp_path / "made").exists() else []
    # It may have been whole by then: whole or nothing, and nothing beside it.
    assert left in ([], [out])
    assert not left or (out / "model.safetensors").exists()
