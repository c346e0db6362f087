"""ONNX Runtime as an encoder: graphs built from safetensors, and ONNX files made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from encoder_folders import write_beside, write_checkpoint, write_onnx
from minilm import FOLDER, PACKAGE, find_minilm
from tiny_bert import CLS, SEP, VOCABULARY, TinyBert, some_texts

from hearth_backends import registry
from hearth_backends.base import DeviceInfo, Lease, LoadedModel
from hearth_backends.encoder import Encoder, EncoderSpec, PairTokenizer
from hearth_backends.errors import BackendError, ModelFileError, Unsupported
from hearth_backends.onnx.encoder import runs_of
from hearth_backends.weights.encoding import Pooling

CPU = DeviceInfo("cpu:0", "cpu", "processor", None, None)
Write = Callable[[TinyBert, Path], Path]


def _load(model: LoadedModel, pooling: Pooling = "mean", **fields: Any) -> Encoder:
    sizes = {"n_ctx": 128, "n_rows": 256, "n_texts": 16, "threads": 1, **fields}
    spec = EncoderSpec("rerank" if pooling == "rank" else "embed", pooling, **sizes)
    backend = registry.backend("onnx")
    lease = Lease(1, "cpu:0", backend.estimate_encoder(model.spec, spec, CPU))
    return backend.load_encoder(model.spec, spec, (CPU,), (lease,), lambda _: None)


def _tokens(model: LoadedModel, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special=True, parse_special=False)


@pytest.fixture(params=[write_checkpoint, write_onnx], ids=["safetensors", "onnx"])
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_the_model(tmp_path: Path, write: Write, pooling: Pooling) -> None:
    bert = TinyBert(rounds=False)
    model = registry.open_model(str(write(bert, tmp_path)))
    assert (model.spec.encoding.pooling, model.spec.encoding.generates) == ("mean", False)
    token_lists = [_tokens(model, text) for text in some_texts(9, longest=24)]
    with closing(_load(model, pooling)) as encoder:
        found = encoder.encode(token_lists)
        alone = np.concatenate([encoder.encode([tokens]) for tokens in token_lists])
    expected = [bert.vector(tokens, pooling) for tokens in token_lists]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found, alone, atol=1e-6)


def test_relevances_are_those_of_the_model(tmp_path: Path, write: Write) -> None:
    bert = TinyBert("rank", seed=3, rounds=False)
    model = registry.open_model(str(write(bert, tmp_path)))
    assert isinstance(model.tokenizer, PairTokenizer)
    pairs = [model.tokenizer.encode_pair("the cat", text) for text in some_texts(7)]
    with closing(_load(model, "rank")) as encoder:
        untyped = encoder.encode([pair.tokens for pair in pairs])
        typed = encoder.encode([pair.tokens for pair in pairs], [pair.second for pair in pairs])
    expected = [bert.relevance(pair.tokens) for pair in pairs]
    np.testing.assert_allclose(untyped[:, 0], expected, atol=1e-5)
    assert np.abs(typed - untyped).max() > 1e-3


def test_a_checkpoint_is_computed_as_transformers_does(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    write_beside(TinyBert("rank"), tmp_path)
    config = transformers.BertConfig.from_pretrained(tmp_path)
    reference = transformers.BertForSequenceClassification(config).eval()
    reference.save_pretrained(tmp_path)
    model = registry.open_model(str(tmp_path))
    assert isinstance(model.tokenizer, PairTokenizer)
    pair = model.tokenizer.encode_pair("the cat sat", "a dog ran home")
    types = [int(i >= pair.second) for i in range(len(pair.tokens))]
    with torch.no_grad():
        logit = reference(torch.tensor([pair.tokens]), token_type_ids=torch.tensor([types])).logits
    with closing(_load(model, "rank")) as encoder:
        found = encoder.encode([pair.tokens], [pair.second])
    np.testing.assert_allclose(found, torch.sigmoid(logit).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForSequenceClassification"])
def test_roberta_is_computed_as_transformers_does(tmp_path: Path, kind: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    write_beside(TinyBert(), tmp_path)
    config = transformers.RobertaConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1,
        num_labels=1,
    )  # fmt: skip
    reference = getattr(transformers, kind)(config).eval()
    reference.save_pretrained(tmp_path)
    model = registry.open_model(str(tmp_path))
    assert model.spec.context_trained == 64
    token_lists = [[5, 6, 7, 8], list(range(5, 50)), [9] * 64]
    with closing(
        _load(model, "rank" if model.spec.encoding.ranks else "mean", n_ctx=64)
    ) as encoder:
        found = encoder.encode(token_lists)
    for tokens, got in zip(token_lists, found, strict=True):
        with torch.no_grad():
            out = reference(torch.tensor([tokens]))
        if model.spec.encoding.ranks:
            expected = torch.sigmoid(out.logits[0])
        else:
            expected = torch.nn.functional.normalize(out.last_hidden_state[0].mean(0), dim=0)
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


def test_texts_are_neither_cut_nor_filled_up_by_the_tokenizer(tmp_path: Path) -> None:
    model = registry.open_model(str(write_checkpoint(TinyBert(), tmp_path)))
    text = "the cat " * 20
    assert len(_tokens(model, text)) == 42
    assert len(_tokens(model, "cat")) == 3
    assert model.tokenizer.decode(_tokens(model, "cat running the cat")) == b"cat running the cat"


def test_a_pair_is_joined_as_the_model_was_trained(tmp_path: Path) -> None:
    tokenizer = registry.open_model(str(write_checkpoint(TinyBert(), tmp_path))).tokenizer
    assert isinstance(tokenizer, PairTokenizer)
    assert tokenizer.joins_pairs
    pair = tokenizer.encode_pair("the cat", "dogs [SEP]")
    first = tokenizer.encode("the cat", add_special=False, parse_special=False)
    second = tokenizer.encode("dogs [SEP]", add_special=False, parse_special=False)
    assert SEP not in second
    assert pair.tokens == [CLS, *first, SEP, *second, SEP]
    assert (pair.tokens[pair.second :], pair.n_second) == ([*second, SEP], len(second))
    cut = tokenizer.encode_pair("the cat", "dogs", most=1)
    assert (cut.tokens[cut.second :], cut.n_second) == ([second[0], SEP], 1)
    empty = tokenizer.encode_pair("the cat", "")
    assert (empty.tokens[empty.second :], empty.n_second) == ([SEP], 0)


def test_an_input_that_nobody_knows_is_named(tmp_path: Path) -> None:
    folder = write_onnx(TinyBert(), tmp_path, extra_input="pixel_values")
    with pytest.raises(Unsupported, match="asks for pixel_values"):
        _load(registry.open_model(str(folder)))


def test_external_data_are_read_and_what_is_missing_is_named(tmp_path: Path) -> None:
    bert = TinyBert(rounds=False)
    folder = write_onnx(bert, tmp_path, external=True)
    model = registry.open_model(str(folder))
    with closing(_load(model)) as encoder:
        np.testing.assert_allclose(
            encoder.encode([[CLS, 50, SEP]])[0], bert.vector([CLS, 50, SEP]), atol=2e-6
        )
    data = folder / "onnx" / "model.onnx_data"
    n_bytes = data.stat().st_size
    with data.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(
        ModelFileError, match=rf"model\.onnx_data: truncated: it has 1000 bytes, and {n_bytes}"
    ):
        registry.open_model(str(folder))
    data.unlink()
    with pytest.raises(
        ModelFileError, match=rf"model\.onnx_data: there is no such file, and {n_bytes} bytes"
    ):
        _load(model)


def test_files_that_are_no_models_are_refused_in_words(tmp_path: Path) -> None:
    folder = write_onnx(TinyBert(), tmp_path)
    file = folder / "onnx" / "model.onnx"
    model, data = registry.open_model(str(file)), file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match=r"model\.onnx: truncated or no ONNX file"):
        registry.open_model(str(folder))
    with pytest.raises(BackendError):
        _load(model)
    file.unlink()
    with pytest.raises(ModelFileError, match=r"neither model\.safetensors nor onnx/model\.onnx"):
        registry.open_model(str(folder))


def test_a_pooling_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(TinyBert(), tmp_path)
    modes = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(
        ModelFileError, match="pooling_mode_max_tokens and pooling_mode_mean_tokens"
    ):
        registry.open_model(str(folder))


def test_a_classifier_is_no_reranker(tmp_path: Path, write: Write) -> None:
    model = registry.open_model(str(write(TinyBert("rank", labels=("good", "bad")), tmp_path)))
    with pytest.raises(Unsupported, match=r"2 classes \(good, bad\)"):
        _load(model, "rank")


def test_runs_hold_texts_of_about_one_length() -> None:
    lengths = [100, 5, 90, 101, 3, 60, 12]
    runs = runs_of(lengths, 256, fills=True, batch=None)
    assert sorted(i for run in runs for i in run) == list(range(7))
    assert runs == [[3, 0], [2], [5], [6, 1], [4]]
    assert all(len(run) * max(lengths[i] for i in run) <= 256 for run in runs)
    assert runs_of([4, 4, 5], 256, fills=False, batch=None) == [[2], [0, 1]]
    assert runs_of([4, 4, 4], 256, fills=True, batch=1) == [[0], [1], [2]]


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = find_minilm()
    if found is None or not (found / "model.safetensors").is_file():
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand; install {PACKAGE} or set {FOLDER}")
    return found


def test_the_real_one_has_the_tokens_and_vectors_that_transformers_gives_it(minilm: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = registry.open_model(str(minilm))
    texts = [
        "A man is eating food.",
        "Somebody has a meal.",
        "naïve Ångström; 東京!",
        "x = [i ** 2]",
    ]
    token_lists = [_tokens(model, text) for text in texts]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    assert token_lists == tokenizer(texts)["input_ids"]
    reference = transformers.BertModel.from_pretrained(minilm).eval()
    with closing(_load(model)) as encoder:
        found = encoder.encode(token_lists)
    for tokens, vector in zip(token_lists, found, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([tokens])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_vocabulary_is_that_of_the_file(tmp_path: Path) -> None:
    assert registry.open_model(str(write_onnx(TinyBert(), tmp_path))).spec.n_vocab == len(
        VOCABULARY
    )
