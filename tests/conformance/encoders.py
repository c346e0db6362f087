"""Encoders under test, and what each is asked to do; a new backend is one entry here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from tiny_bert import WORDS, TinyBert

import hearth_backends
from hearth_backends import registry
from hearth_backends.base import Lease, LoadedModel
from hearth_backends.encoder import Encoder, PairTokenizer, Vectors
from hearth_backends.errors import BackendError, Unsupported
from hearthd import wire
from hearthd.engine.encoding.loader import plan_encoder
from hearthd.engine.encoding.task import choose_encoding

CANARY = Path(hearth_backends.__file__).parent / "canary" / "canary.gguf"
WRITTEN = Path(tempfile.gettempdir()) / f"hearth-encoders-{os.getpid()}"
CONTEXT, BATCH_TOKENS = 64, 128


@dataclass(frozen=True)
class EncoderSubject:
    """A backend with one kind of model."""

    name: str
    path: str
    backend: str
    near: float = 1e-3  # two results of one text that differ by less are the same
    kv_dtype: str = "f16"
    task: Literal["embed"] | None = None  # None: as the file says
    needs: str = ""  # a package without which it is skipped
    write: Callable[[Path], object] | None = None  # makes its model

    def absence(self) -> str | None:
        """Why it cannot be tried here."""
        if self.needs and find_spec(self.needs) is None:
            return f"the package {self.needs} is not installed"
        if self.write is not None and not Path(self.path).exists():
            WRITTEN.mkdir(exist_ok=True)
            self.write(Path(self.path))
        return None

    @contextmanager
    def loaded(self) -> Iterator[tuple[Encoder, LoadedModel]]:
        """As an engine loads it."""
        model = registry.open_model(self.path)
        load = wire.Load(
            self.name, self.path, backend=self.backend, context=CONTEXT,
            step_tokens=BATCH_TOKENS, threads=1, kv_dtype=self.kv_dtype,
        )  # fmt: skip
        encoding = choose_encoding(model.spec, self.task)
        assert encoding is not None
        plan = plan_encoder(load, model, encoding)
        encoder = plan.backend.load_encoder(
            model.spec, plan.spec, (plan.device,), (Lease(1, plan.device.name, plan.need),), _told
        )
        try:
            yield encoder, model
        finally:
            encoder.close()
            encoder.close()


def _told(_: float) -> None: ...


@dataclass(frozen=True)
class EncoderFeature:
    """One column of the table."""

    name: str
    promise: str
    run: Callable[[EncoderSubject], None]


ENCODER_FEATURES: list[EncoderFeature] = []


def feature(promise: str) -> Callable[[Callable[[EncoderSubject], None]], None]:
    """Make a function a column, under its own name."""

    def register(run: Callable[[EncoderSubject], None]) -> None:
        ENCODER_FEATURES.append(EncoderFeature(run.__name__, promise, run))

    return register


def _texts(n: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=int(random.integers(1, 7)))) for _ in range(n)]


Inputs = list[tuple[list[int], int | None]]


def _inputs(encoder: Encoder, model: LoadedModel, texts: Sequence[str]) -> Inputs:
    """Tokens of texts, or of their pairs with a query."""
    tokenizer = model.tokenizer
    if encoder.spec.task == "embed":
        return [(tokenizer.encode(t, add_special=True, parse_special=False), None) for t in texts]
    assert isinstance(tokenizer, PairTokenizer)
    pairs = [tokenizer.encode_pair("the cat sat", text) for text in texts]
    return [(pair.tokens, pair.second) for pair in pairs]


def _encode(encoder: Encoder, inputs: Inputs) -> Vectors:
    return encoder.encode([tokens for tokens, _ in inputs], [second for _, second in inputs])


@feature("a text gets the same result whatever shares its batch, and in the place that it had")
def company(subject: EncoderSubject) -> None:
    random = np.random.default_rng(0)
    with subject.loaded() as (encoder, model):
        inputs = _inputs(encoder, model, _texts(24))
        inputs = [entry for entry in inputs if len(entry[0]) <= CONTEXT]
        alone = np.concatenate([_encode(encoder, [entry]) for entry in inputs])
        for _ in range(12):
            chosen: list[int] = []
            for i in random.permutation(len(inputs)).tolist():
                if sum(len(inputs[j][0]) for j in [*chosen, i]) <= BATCH_TOKENS:
                    chosen.append(i)
            together = _encode(encoder, [inputs[i] for i in chosen])
            np.testing.assert_allclose(together, alone[chosen], atol=subject.near)
        assert np.ptp(alone, axis=0).max() > 10 * subject.near


@feature("the same batch twice gives the same result, and one that came between changes nothing")
def repetition(subject: EncoderSubject) -> None:
    with subject.loaded() as (encoder, model):
        inputs = _inputs(encoder, model, _texts(4))
        first = _encode(encoder, inputs)
        assert (_encode(encoder, inputs) == first).all()
        _encode(encoder, _inputs(encoder, model, _texts(3, seed=1)))
        np.testing.assert_allclose(_encode(encoder, inputs), first, atol=subject.near)


@feature("vectors have length 1 in single precision; relevances lie in [0, 1]")
def form(subject: EncoderSubject) -> None:
    with subject.loaded() as (encoder, model):
        found = _encode(encoder, _inputs(encoder, model, _texts(3)))
        assert found.shape == (3, encoder.dim)
        assert found.dtype == np.float32
        if encoder.spec.task == "embed":
            assert encoder.dim > 1
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        else:
            assert encoder.dim == 1
            assert ((found >= 0) & (found <= 1)).all()


@feature("one token, the longest text, the most texts and the most tokens of a batch")
def limits(subject: EncoderSubject) -> None:
    with subject.loaded() as (encoder, _):
        spec = encoder.spec
        assert (spec.n_ctx, spec.n_rows) == (CONTEXT, BATCH_TOKENS)
        for lengths in ([1], [CONTEXT], [CONTEXT] * 2, [1] * spec.n_texts, [1, CONTEXT, 63]):
            found = encoder.encode([[7] * n for n in lengths])
            assert np.isfinite(found).all()
            assert len(found) == len(lengths)


@feature("a batch that must not be is refused, and the next one is computed")
def refusals(subject: EncoderSubject) -> None:
    with subject.loaded() as (encoder, model):
        inputs = _inputs(encoder, model, _texts(1))
        before = _encode(encoder, inputs)
        n_vocab = model.spec.n_vocab
        too_many = [[7]] * (encoder.spec.n_texts + 1)
        batches: list[list[list[int]]] = [
            [],
            [[]],
            [[7] * (CONTEXT + 1)],
            [[7] * 50] * 3,
            too_many,
            [[-1]],
            [[n_vocab]],
        ]
        for lists in batches:
            with pytest.raises(BackendError):
                encoder.encode(lists)
        np.testing.assert_allclose(_encode(encoder, inputs), before, atol=subject.near)


@feature("a model is loaded for what it can do, and for nothing else")
def tasks(subject: EncoderSubject) -> None:
    model = registry.open_model(subject.path)
    facts = model.spec.encoding
    if not facts.generates:
        with pytest.raises(Unsupported, match="continues no text"):
            choose_encoding(model.spec, "generate")
    if facts.ranks:
        with pytest.raises(Unsupported, match="reranker"):
            choose_encoding(model.spec, "embed")
    else:
        with pytest.raises(Unsupported, match="no reranker"):
            choose_encoding(model.spec, "rerank")
    backend = registry.backend(subject.backend)
    if not facts.generates:
        assert not backend.supports(model.spec, backend.devices()[0]).ok


def _bert(name: str, shape: TinyBert, **fields: Any) -> EncoderSubject:
    return EncoderSubject(
        name=f"gguf, bert, {name}",
        **fields,
        path=str(WRITTEN / f"bert-{name}.gguf"),
        backend="gguf",
        needs="llama_cpp",
        write=partial(TinyBert.write, shape),
    )


def _onnx(name: str, shape: TinyBert, writer: str) -> EncoderSubject:
    def write(path: Path) -> None:
        import encoder_folders

        getattr(encoder_folders, writer)(shape, path)

    return EncoderSubject(
        name=f"onnx, {name}",
        path=str(WRITTEN / name.replace(", ", "-")),
        backend="onnx",
        near=1e-5,
        needs="onnxruntime",
        write=write,
    )


ENCODERS = [
    EncoderSubject("sim, embed", "sim:task=embed", "sim", near=1e-6),
    EncoderSubject("sim, rerank", "sim:task=rerank,bos=1", "sim", near=1e-6),
    _bert("mean", TinyBert("mean")),
    _bert("mean, f32", TinyBert("mean"), kv_dtype="f32", near=5e-5),
    _bert("cls", TinyBert("cls", seed=1)),
    _bert("rank", TinyBert("rank", seed=3)),
    EncoderSubject(
        "gguf, decoder, last", str(CANARY), "gguf", near=5e-3, task="embed", needs="llama_cpp"
    ),
    _onnx("safetensors, mean", TinyBert("mean"), "write_checkpoint"),
    _onnx("safetensors, rank", TinyBert("rank", seed=3), "write_checkpoint"),
    _onnx("a file, cls", TinyBert("cls", seed=1), "write_onnx"),
    _onnx("a file, rank", TinyBert("rank", seed=3), "write_onnx"),
]


def forget_encoders() -> None:
    """Remove the models that were written."""
    shutil.rmtree(WRITTEN, ignore_errors=True)
