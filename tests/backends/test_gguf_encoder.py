"""llama.cpp as an encoder, against the same tiny BERT computed in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tiny_bert import CLS, SEP, TinyBert, some_texts
from tiny_encoders import write_encoder

from hearth_backends.base import DeviceInfo, Lease, LoadedModel
from hearth_backends.encoder import Encoder, EncoderSpec, PairTokenizer
from hearth_backends.errors import BackendError, ModelFileError, Unsupported
from hearth_backends.weights.encoding import Pooling

pytest.importorskip("llama_cpp")

MakeGguf = Callable[..., Path]
CPU = DeviceInfo("cpu:0", "cpu", "processor", None, None)


def _open(path: Path) -> LoadedModel:
    from hearth_backends.gguf.vocab import open_gguf

    return open_gguf(str(path))


def _spec(pooling: Pooling = "mean", **fields: Any) -> EncoderSpec:
    sizes = {"n_ctx": 128, "n_rows": 256, "n_texts": 16, "threads": 1, "kv_dtype": "f32", **fields}
    return EncoderSpec("rerank" if pooling == "rank" else "embed", pooling, **sizes)


def _load(model: LoadedModel, spec: EncoderSpec) -> Encoder:
    from hearth_backends.gguf.backend import GgufBackend

    backend = GgufBackend()
    lease = Lease(1, "cpu:0", backend.estimate_encoder(model.spec, spec, CPU))
    return backend.load_encoder(model.spec, spec, (CPU,), (lease,), lambda _: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoders")


@pytest.fixture(scope="module")
def bert(folder: Path) -> LoadedModel:
    return _open(TinyBert().write(folder / "mean.gguf"))


@pytest.fixture
def encoder(bert: LoadedModel) -> Iterator[Encoder]:
    with closing(_load(bert, _spec())) as encoder:
        yield encoder


def _tokens(model: LoadedModel, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special=True, parse_special=False)


def test_the_file_says_how_it_encodes(bert: LoadedModel, folder: Path) -> None:
    encoding = bert.spec.encoding
    assert (encoding.pooling, encoding.generates, encoding.ranks) == ("mean", False, False)
    silent = _open(TinyBert(pooling=None).write(folder / "silent.gguf")).spec.encoding
    assert (silent.pooling, silent.ranks) == (None, False)
    ranker = _open(TinyBert("rank", labels=("yes", "no")).write(folder / "two.gguf")).spec.encoding
    assert (ranker.pooling, ranker.ranks, ranker.labels) == ("rank", True, ("yes", "no"))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_the_model(bert: LoadedModel, pooling: Pooling) -> None:
    token_lists = [_tokens(bert, text) for text in some_texts(5, longest=30)]
    expected = np.array([TinyBert().vector(tokens, pooling) for tokens in token_lists])
    with closing(_load(bert, _spec(pooling))) as encoder:
        found = encoder.encode(token_lists)
    assert found.dtype == np.float32
    assert found.shape == (5, encoder.dim)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    exactly = [TinyBert(rounds=False).vector(tokens, pooling) for tokens in token_lists]
    np.testing.assert_allclose(found, exactly, atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_attention_in_half_precision_is_nearly_the_same(bert: LoadedModel) -> None:
    token_lists = [_tokens(bert, text) for text in some_texts(5, longest=30)]
    with closing(_load(bert, _spec(kv_dtype="f16"))) as encoder:
        found = encoder.encode(token_lists)
    expected = [TinyBert().vector(tokens) for tokens in token_lists]
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_relevances_are_those_of_the_model(folder: Path) -> None:
    bert = TinyBert("rank", seed=3)
    model = _open(bert.write(folder / "rank.gguf"))
    assert isinstance(model.tokenizer, PairTokenizer)
    pairs = [model.tokenizer.encode_pair("the cat", text).tokens for text in some_texts(7)]
    with closing(_load(model, _spec("rank"))) as encoder:
        found = encoder.encode(pairs)
    assert found.shape == (7, 1)
    np.testing.assert_allclose(found[:, 0], [bert.relevance(pair) for pair in pairs], atol=1e-4)
    assert np.ptp(found) > 1e-3


def test_a_pair_is_joined_as_the_model_was_trained(bert: LoadedModel) -> None:
    tokenizer = bert.tokenizer
    assert isinstance(tokenizer, PairTokenizer)
    assert tokenizer.joins_pairs
    pair = tokenizer.encode_pair("the cat", "dogs [SEP]")
    first = tokenizer.encode("the cat", add_special=False, parse_special=False)
    second = tokenizer.encode("dogs [SEP]", add_special=False, parse_special=False)
    assert SEP not in second
    assert pair.tokens == [CLS, *first, SEP, *second, SEP]
    assert pair.tokens[pair.second :] == [*second, SEP]
    assert pair.n_second == len(second)
    assert tokenizer.encode_pair("the cat", "dogs", most=1).tokens[pair.second :] == [
        second[0],
        SEP,
    ]


def test_a_text_gets_the_same_vector_in_any_company(bert: LoadedModel, encoder: Encoder) -> None:
    random = np.random.default_rng(1)
    token_lists = [_tokens(bert, text) for text in some_texts(40, longest=12)]
    alone = np.concatenate([encoder.encode([tokens]) for tokens in token_lists])
    for _ in range(10):
        chosen = random.permutation(40)[: int(random.integers(2, 17))]
        together = encoder.encode([token_lists[i] for i in chosen])
        np.testing.assert_allclose(together, alone[chosen], atol=5e-5)


def test_the_largest_batch_and_the_longest_text(bert: LoadedModel, encoder: Encoder) -> None:
    long = _tokens(bert, " ".join(["cat"] * 126))
    assert len(long) == 128
    found = encoder.encode([long, long[:127], [CLS]])
    np.testing.assert_allclose(found[0], TinyBert().vector(long), atol=1e-4)
    assert encoder.encode([[CLS, SEP]] * 16).shape == (16, 64)


def test_batches_that_must_not_be(encoder: Encoder) -> None:
    long, many = [CLS] * 100, [[CLS]] * 17
    batches: list[list[list[int]]] = [
        [],
        [[]],
        [[*long, *long]],
        many,
        [long] * 3,
        [[9999]],
        [[-1]],
    ]
    for token_lists in batches:
        with pytest.raises(BackendError):
            encoder.encode(token_lists)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_decoder_asked_for_vectors(make_gguf: MakeGguf, architecture: str) -> None:
    """Causal models keep keys and values: a batch must not see what the one before left."""
    model = _open(make_gguf(architecture=architecture))
    random = np.random.default_rng(0)
    token_lists: list[list[int]] = [random.integers(0, 256, n).tolist() for n in (3, 40, 1, 17, 90)]
    with closing(_load(model, _spec("last"))) as encoder:
        alone = np.concatenate([encoder.encode([tokens]) for tokens in token_lists])
        together = encoder.encode(token_lists)
        again = encoder.encode(token_lists[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=2e-3)
    np.testing.assert_allclose(again, alone, atol=2e-3)
    assert np.linalg.norm(alone[0] - alone[1]) > 0.1


@pytest.mark.parametrize("architecture", ["nomic-bert", "jina-bert-v2", "gemma-embedding"])
def test_other_encoders(tmp_path: Path, architecture: str) -> None:
    """Their graphs are llama.cpp's own; here, that what is around them fits."""
    model = _open(write_encoder(tmp_path / "encoder.gguf", architecture))
    assert not model.spec.encoding.generates
    token_lists = [_tokens(model, text) for text in some_texts(8, longest=10)]
    with closing(_load(model, _spec())) as encoder:
        together = encoder.encode(token_lists)
        alone = np.concatenate([encoder.encode([tokens]) for tokens in token_lists])
    with closing(_load(model, _spec("cls"))) as encoder:
        first = encoder.encode([[CLS, 10, 11, SEP], [CLS, 10, 12, SEP]])
    np.testing.assert_allclose(together, alone, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    assert np.abs(first[0] - first[1]).max() > 1e-3, "the first token does not see what follows"


def test_a_reranker_that_says_yes_or_no(tmp_path: Path, make_gguf: MakeGguf) -> None:
    path = _with_head(make_gguf(architecture="qwen3"), tmp_path / "qwen3.gguf", ("yes", "no"))
    model = _open(path)
    with closing(_load(model, _spec("rank"))) as encoder:
        found = encoder.encode([[1, 2, 3], [4, 5, 6, 7], [200, 100]])
    assert found.shape == (3, 1)
    assert ((found > 0) & (found < 1)).all()
    swapped = _open(_with_head(path, tmp_path / "swapped.gguf", ("no", "yes")))
    with closing(_load(swapped, _spec("rank"))) as encoder:
        other = encoder.encode([[1, 2, 3], [4, 5, 6, 7], [200, 100]])
    np.testing.assert_allclose(found + other, 1, atol=1e-5)


def test_what_is_refused(folder: Path, make_gguf: MakeGguf) -> None:
    classes = TinyBert("rank", labels=("joy", "anger", "fear")).write(folder / "classes.gguf")
    with pytest.raises(Unsupported, match="3 classes"):
        _load(_open(classes), _spec("rank"))
    bert = _open(folder / "classes.gguf")
    for spec, words in (
        (_spec("none"), "no vector"),
        (_spec(kv_dtype="q2"), "not q2"),
        (_spec(weight_kind="int8"), "as the file stores them"),
        (_spec(n_texts=257), "at most 256"),
    ):
        with pytest.raises(Unsupported, match=words):
            _load(bert, spec)
    broken = TinyBert(seed=9).write(folder / "broken.gguf")
    broken.write_bytes(broken.read_bytes()[:-5000])
    with pytest.raises(ModelFileError):
        _load(_open(broken), _spec())


def _with_head(source: Path, target: Path, labels: tuple[str, ...]) -> Path:
    """The same model with a head of two outputs."""
    reader = gguf.GGUFReader(source)
    named = reader.get_field("general.architecture")
    assert named is not None
    architecture = named.contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", "general.architecture", f"{architecture}.cls")):
            continue
        if field.name in (
            f"{architecture}.pooling_type",
            f"{architecture}.classifier.output_labels",
        ):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_classifier_output_labels(list(labels))
    for tensor in reader.tensors:
        if tensor.name != "cls.output.weight":
            writer.add_tensor(tensor.name, np.array(tensor.data))
    head = np.random.default_rng(5).standard_normal((2, 64)).astype(np.float32)
    writer.add_tensor("cls.output.weight", head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
