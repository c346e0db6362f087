"""Quantized checkpoints computed: near the original on ONNX Runtime, and the same model to transformers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_runner import MakeGguf, Rows, Runner, noise, whole_spec

from hearth_backends.base import F32, LoadedModel
from hearth_backends.quantizing.checkpoint import write_quantized
from hearth_backends.quantizing.plan import Target
from hearth_backends.registry import backend, open_model
from hearth_backends.weights.checkpoint import Checkpoint

pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

from onnx_runner import ONNX, canary

TEXT = noise(100, 1)
TINY: dict[str, dict[str, object]] = {
    "llama": {},
    "llama, heads of 24": {"head_dim": 24},
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3", "tied": True},
    "gemma": {"architecture": "gemma"},
    "gemma2": {"architecture": "gemma2", "window": 8},
    "gemma3": {"architecture": "gemma3", "n_layers": 8, "window": 8},
    "phi3": {"architecture": "phi3"},
    "phi3 longrope": {"architecture": "phi3", "original_context": 64},
}
SOME = ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "phi3"))]

pytestmark = pytest.mark.filterwarnings("default")  # of transformers and torch


def distributions(model: LoadedModel, kind: str, text: list[int]) -> F32:
    with closing(Runner(model, [whole_spec(model, weight_kind=kind)], ONNX)) as runner:
        half = len(text) // 2
        rest = (Rows(0, [token]) for token in text[half:])
        steps = [runner.step(Rows(0, text[:half], half)), *map(runner.step, rest)]
        return np.concatenate(steps)


def divergence(exact: F32, found: F32) -> float:
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())


def quantized(model: LoadedModel, target: Target, out: Path, text: list[int] | None) -> LoadedModel:
    layers = None if text is None else backend("onnx").layer_inputs(model.spec, [text], 1)
    write_quantized(model, target, out, lambda _part: None, layers=layers)
    return open_model(str(out))


@pytest.mark.parametrize(
    ("target", "most"),
    [
        (Target("int8"), 0.02),
        pytest.param(Target("fp8"), 0.2, marks=pytest.mark.slow),
        pytest.param(Target("int4", group=32), 1.6, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
@pytest.mark.parametrize("name", SOME)
def test_tiny_random_models_stay_near(
    name: str, target: Target, most: float, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    model = open_model(str(make_gguf(**TINY[name])))
    made = quantized(model, target, tmp_path / "out", noise(200, 2))
    exact = distributions(model, "fp32", TEXT)
    assert divergence(exact, distributions(made, "file", TEXT)) < most


def test_the_canary_in_4_bits_is_nearer_by_gptq(tmp_path: Path) -> None:
    model = canary()
    text = list(
        b"<|im_start|>user\nolive = 4821, the hearth is warm: 1 2 3. Count on: 37 38 39<|im_end|>"
    )
    reading = list(
        b"Once there was a fire that nobody had lit; 12 men and 3 dogs came to see it. " * 6
    )
    exact = distributions(model, "fp32", text)
    by_gptq, nearest = (
        divergence(
            exact,
            distributions(quantized(model, Target("int4"), tmp_path / name, seen), "file", text),
        )
        for name, seen in (("gptq", reading), ("nearest", None))
    )
    assert by_gptq < 0.35
    assert by_gptq < 0.7 * nearest


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_transformers_reads_the_same_model(name: str, make_gguf: MakeGguf, tmp_path: Path) -> None:
    """What config.json says means to others what it means to us."""
    pytest.importorskip("transformers")
    model = open_model(str(make_gguf(**TINY[name])))
    out = tmp_path / "out"
    made = quantized(model, Target("int8"), out, None)
    assert np.abs(distributions(made, "fp32", TEXT) - theirs(out, TEXT)).max() < 1e-3


def theirs(folder: Path, text: list[int]) -> F32:
    """Log-probabilities of transformers, with the numbers that the quantized matrices stand for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config_json = json.loads((folder / "config.json").read_text())
    del config_json["quantization_config"]
    config = AutoConfig.for_model(**config_json)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval()
    reader = Checkpoint(folder)
    state = {name: torch.from_numpy(reader.tensor(name).copy()) for name in reader.spec.tensors}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    with torch.no_grad():
        logits = model(torch.tensor([text])).logits[0]
    found: F32 = torch.log_softmax(logits, -1).numpy()
    return found
