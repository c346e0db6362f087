"""Every architecture on the ONNX backend: logits of transformers for checkpoints, of llama.cpp for GGUF files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import MakeGguf, Rows, Runner, cut_specs, fork, noise, truncate, whole_spec

from hearth_backends.base import F32, LoadedModel
from hearth_backends.weights.checkpoint import Checkpoint

pytest.importorskip("onnxruntime")

from onnx_runner import ONNX, NoTokenizer
from tiny_checkpoints import ARCHITECTURES, make_checkpoint, reference_logits

TEXT = noise(100, 1)
EXACT = 1e-3
"""The mark; what is found is a hundredth of it."""

pytestmark = pytest.mark.filterwarnings("default")  # of transformers and torch


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_checkpoint(tmp_path, name)
    expected = _log_softmax(reference_logits(model, TEXT))
    loaded = LoadedModel(Checkpoint(tmp_path).spec, NoTokenizer())
    with closing(Runner(loaded, [whole_spec(loaded, weight_kind="fp32")], ONNX)) as runner:
        assert np.abs(_whole_text(runner) - expected).max() < EXACT
    specs = cut_specs(loaded, 1, weight_kind="fp32")
    with closing(Runner(loaded, specs, ONNX)) as runner:
        assert np.abs(_whole_text(runner) - expected).max() < EXACT


@pytest.mark.parametrize(
    ("dtype", "shards"), [("bfloat16", False), ("float16", True), ("float32", True)]
)
def test_other_types_and_shards(dtype: str, shards: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_checkpoint(tmp_path, "llama", dtype=dtype, shards=shards)
    assert shards == (len(list(tmp_path.glob("*.safetensors"))) > 1)
    loaded = LoadedModel(Checkpoint(tmp_path).spec, NoTokenizer())
    with closing(Runner(loaded, [whole_spec(loaded, weight_kind="file")], ONNX)) as runner:
        expected = _log_softmax(reference_logits(model, TEXT))
        assert np.abs(_whole_text(runner) - expected).max() < EXACT


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "llama"},
        {"architecture": "llama", "head_dim": 24},
        {"architecture": "qwen2"},
        {"architecture": "qwen3", "tied": True},
        {"architecture": "gemma2", "window": 8},
        {"architecture": "gemma3", "n_layers": 8, "window": 8},
        {"architecture": "phi3"},
        {"architecture": "phi3", "original_context": 64},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_logits_are_those_of_llama_cpp(fields: dict[str, object], make_gguf: MakeGguf) -> None:
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    model = open_gguf(str(make_gguf(**fields)))
    theirs = Runner(model, [whole_spec(model)])
    ours = Runner(model, [whole_spec(model, weight_kind="fp32")], ONNX)
    with closing(theirs), closing(ours):
        assert np.abs(_scenario(ours) - _scenario(theirs)).max() < 5 * EXACT


@pytest.mark.parametrize("quant", ["Q4_0", "Q8_0"])
def test_blocks_of_a_gguf_file_are_taken_over(quant: str, make_gguf: MakeGguf) -> None:
    """Both round activations to 8 bits, each in its own way: what differs is that, not the weights."""
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    model = open_gguf(str(make_gguf(architecture="llama", quant=quant)))
    exact = Runner(model, [whole_spec(model, weight_kind="fp32")], ONNX)
    ours = Runner(model, [whole_spec(model, weight_kind="file")], ONNX)
    theirs = Runner(model, [whole_spec(model)])
    with closing(exact), closing(ours), closing(theirs):
        expected = _whole_text(exact)
        our_kl, their_kl = _kl(expected, _whole_text(ours)), _kl(expected, _whole_text(theirs))
    assert our_kl < 2 * their_kl + 1e-4


@pytest.mark.parametrize("quant", ["Q4_1", "Q5_0", "Q5_1", "F16", "BF16"])
def test_other_types_of_a_gguf_file_come_as_near_as_they_can(
    quant: str, make_gguf: MakeGguf
) -> None:
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    model = open_gguf(str(make_gguf(architecture="qwen2", quant=quant)))
    exact = Runner(model, [whole_spec(model, weight_kind="fp32")], ONNX)
    ours = Runner(model, [whole_spec(model, weight_kind="file")], ONNX)
    with closing(exact), closing(ours):
        expected = _whole_text(exact)
        assert _kl(expected, _whole_text(ours)) < (1e-9 if "F" in quant else 0.03)


def _whole_text(runner: Runner) -> F32:
    """Distributions after every token, in chunks and token by token."""
    chunks = [TEXT[:50], TEXT[50:53], *([token] for token in TEXT[53:60]), TEXT[60:]]
    return np.concatenate([runner.step(Rows(0, chunk, len(chunk))) for chunk in chunks])


def _scenario(runner: Runner) -> F32:
    """Chunked prefill beside decode, a fork, a rollback: what came out of all of it."""
    a, b = noise(45, 21), noise(20, 22)
    results = [runner.step(Rows(0, a[:30], n_wanted=3), Rows(1, b[:1]))]
    results.append(runner.step(Rows(0, a[30:]), Rows(1, b[1:], n_wanted=2)))
    runner.operate(fork(0, 2, 32))
    results.append(runner.step(Rows(1, [5]), Rows(2, a[32:40], n_wanted=8)))
    runner.operate(truncate(2, 36))
    results.append(runner.step(Rows(2, [8, 9]), Rows(0, [6]), Rows(1, [7])))
    return np.concatenate(results)


def _kl(exact: F32, found: F32) -> float:
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())


def _log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max(axis=1, keepdims=True)
    values: F32 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return values
