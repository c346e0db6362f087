"""A draft model through the daemon: named in the configuration, told of by /v1/models and /metrics."""

from __future__ import annotations

from http.client import HTTPConnection
from pathlib import Path

from hearthd_process import Daemon, running

from hearthd.config.schema import ModelConfig, StageConfig
from hearthd.serving.deployments import draft_config

PROMPT = [97 + (i * i * 3 + i) % 26 for i in range(50)]


def metric(daemon: Daemon, sample: str) -> float:
    connection = HTTPConnection(daemon.address(), timeout=30)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), 0.0)


def test_a_model_is_drafted_for_and_says_by_whom(short_path: Path) -> None:
    config = short_path / "hearthd.toml"
    config.write_text(
        '[models.m]\npath = "sim:latency_ms=15"\ndraft = "small"\n'
        '[models.lonely]\npath = "sim:latency_ms=15"\ndraft = "sim:fail_every=1"\n'
        '[models.small]\npath = "sim:"\n'
        '[models.wrong]\npath = "sim:"\ndraft = "canary"\n'
    )
    body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    with running(short_path, "--config", str(config)) as daemon:
        names = ("m", "small", "lonely")
        daemon.until(lambda: all(daemon.model(name)["state"] == "ready" for name in names))
        daemon.until(lambda: daemon.model("wrong")["state"] == "failed")
        assert "draft = 'builtin:canary': " in daemon.model("wrong")["error"]
        texts = []
        for name in names:
            status, answer = daemon.get("/v1/completions", {**body, "model": name})
            assert status == 200, answer
            texts.append(answer["choices"][0]["text"])
        assert len(set(texts)) == 1
        assert [daemon.model(name)["draft"] for name in names] == [
            "small", None, "sim:fail_every=1",
        ]  # fmt: skip
        accepted = 'hearth_draft_accepted_tokens_total{drafter="model",model="m"}'
        daemon.until(lambda: metric(daemon, accepted) > 5)
        assert metric(daemon, 'hearth_draft_gain{model="m"}') > 1.0
        daemon.until(lambda: daemon.model("lonely")["draft_failure"] is not None)
        assert daemon.model("m")["draft_failure"] is None


def test_what_a_draft_model_keeps_of_its_own_configuration() -> None:
    small = ModelConfig(
        path="/m/small.gguf",
        backend="gguf",
        devices=("cpu:1",),
        stages=(StageConfig("gguf", "cpu:1", (0, 4)),),
        kv_dtype="q8_0",
        threads=3,
        context=77,
        options={"x": 1},
    )
    models = {"a": ModelConfig(draft="small"), "b": ModelConfig(draft="/f.gguf"), "small": small}
    named, file = draft_config(models["a"], models), draft_config(models["b"], models)
    assert named is not None
    assert file is not None
    assert (named.name, named.path, named.backend) == ("small", "/m/small.gguf", "gguf")
    assert (named.device, named.stages[0].layers) == ("cpu:1", (0, 4))
    assert (named.kv_dtype, named.threads, named.options) == ("q8_0", 3, {"x": 1})
    assert (file.name, file.path, file.backend) == ("/f.gguf", "/f.gguf", None)
    assert draft_config(small, models) is None
