"""Every architecture on the paged backend: logits of transformers for checkpoints, of llama.cpp for GGUF files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import MakeGguf, Rows, Runner, noise, whole_spec

from hearth_backends.base import F32, LoadedModel
from hearth_backends.weights.checkpoint import Checkpoint

pytest.importorskip("torch")

from cuda_runner import in_chunks, log_softmax, paged_cut, paged_whole
from onnx_runner import NoTokenizer
from tiny_checkpoints import ARCHITECTURES, make_checkpoint, reference_logits

TEXT = noise(100, 1)
EXACT = 1e-4

pytestmark = pytest.mark.filterwarnings("default")  # of transformers and torch


FAST = ("llama 3 rope", "gemma2")
NAMES = [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in ARCHITECTURES]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_checkpoint(tmp_path, name)
    expected = log_softmax(reference_logits(model, TEXT))
    loaded = LoadedModel(Checkpoint(tmp_path).spec, NoTokenizer())
    for runner in (paged_whole(loaded), paged_cut(loaded, 1)):
        with closing(runner):
            assert np.abs(in_chunks(runner, TEXT) - expected).max() < EXACT


@pytest.mark.parametrize(("dtype", "shards"), [("bfloat16", False), ("float16", True)])
def test_other_types_and_shards(dtype: str, shards: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = make_checkpoint(tmp_path, "llama", dtype=dtype, shards=shards)
    assert shards == (len(list(tmp_path.glob("*.safetensors"))) > 1)
    loaded = LoadedModel(Checkpoint(tmp_path).spec, NoTokenizer())
    with closing(paged_whole(loaded, weights="file")) as runner:
        expected = log_softmax(reference_logits(model, TEXT))
        assert np.abs(in_chunks(runner, TEXT) - expected).max() < EXACT


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "llama", "head_dim": 24},
        {"architecture": "qwen2"},
        {"architecture": "qwen3", "tied": True},
        {"architecture": "gemma2", "window": 8},
        {"architecture": "gemma3", "n_layers": 8, "window": 8},
        {"architecture": "phi3", "original_context": 64},
    ],
    ids=lambda fields: " ".join(map(str, fields.values())),
)
def test_logits_are_those_of_llama_cpp(fields: dict[str, object], make_gguf: MakeGguf) -> None:
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    model = open_gguf(str(make_gguf(**fields)))
    theirs = Runner(model, [whole_spec(model, n_ctx=128)])
    with closing(theirs), closing(paged_whole(model)) as ours:
        assert np.abs(_side_by_side(ours) - _side_by_side(theirs)).max() < 50 * EXACT


def _side_by_side(runner: Runner) -> F32:
    """Chunked prompts beside rows that decode: what came out of all of it."""
    a, b = noise(45, 21), noise(20, 22)
    results = [runner.step(Rows(0, a[:30], n_wanted=3), Rows(1, b[:1]))]
    results.append(runner.step(Rows(0, a[30:]), Rows(1, b[1:], n_wanted=2)))
    results.append(runner.step(Rows(1, [8, 9]), Rows(0, [6]), Rows(2, b, n_wanted=9)))
    results.append(runner.step(Rows(2, [7]), Rows(0, [5]), Rows(1, [3])))
    return np.concatenate(results)
