"""The table: ways of computing one model, each held against the original on a text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import LoadedModel
from hearth_backends.errors import Unsupported
from hearthd.engine.checkup.bench import Bench, opened
from hearthd.engine.quantizing.comparison import Judged, joined, judge, perplexity
from hearthd.engine.quantizing.reading import N_TEXTS, TEXT_TOKENS, cut, read
from hearthd.quantization import Compared, Refused, Row

STEP_ROWS = 64

Tell = Callable[[str, float], None]
"""What is being done, and how far that is."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of computing a model."""

    name: str
    path: str
    backend: str
    weights: str = "file"
    kv_dtype: str = "f32"


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything is computed."""

    device: str
    threads: int


def compare(
    model: LoadedModel, reference: Way, ways: Sequence[Way], text: str, place: Place, tell: Tell
) -> Compared:
    """Raises BackendError where the original itself cannot be computed; of others it tells the reason."""
    tokens = model.tokenizer.encode(text, add_special=False, parse_special=True)
    texts = cut(tokens, model.spec.bos_id if model.spec.add_bos else None)
    with tempfile.NamedTemporaryFile(prefix="hearth") as file:
        original = _Original(file.name, sum(map(len, texts)), model.spec.n_vocab)
        own = original.record(reference, texts, place, tell)
        rows, refused = [], []
        for way in ways:
            try:
                rows.append(original.judge(way, texts, place, tell))
            except Unsupported as error:
                refused.append(Refused(way.name, str(error)))
    return Compared(reference.name, sum(map(len, texts)), own, rows, refused)


class _Original:
    """Distributions of the original, on disk: over a large vocabulary they take more than the weights."""

    def __init__(self, path: str, n_rows: int, n_vocab: int) -> None:
        self._rows: NDArray[np.float32] = np.memmap(path, np.float32, "w+", shape=(n_rows, n_vocab))

    def record(self, way: Way, texts: Sequence[Sequence[int]], place: Place, tell: Tell) -> float:
        """Its perplexity."""
        surprise, at = [], 0
        with _opened(way, place) as bench:
            for step in read(bench, texts):
                n = len(step.logprobs)
                self._rows[at : at + n] = step.logprobs
                surprise.append(judge(step.logprobs, step.logprobs, step.came).surprise)
                at += n
                tell(way.name, at / len(self._rows))
        return perplexity(np.concatenate(surprise))

    def judge(self, way: Way, texts: Sequence[Sequence[int]], place: Place, tell: Tell) -> Row:
        prompt: list[Judged] = []
        decoded: list[Judged] = []
        at = 0
        with _opened(way, place) as bench:
            if bench.model.spec.n_vocab != self._rows.shape[1]:
                raise Unsupported(
                    f"{way.path} has {bench.model.spec.n_vocab} tokens, the original {self._rows.shape[1]}"
                )
            for step in read(bench, texts):
                n = len(step.logprobs)
                found = judge(self._rows[at : at + n], step.logprobs, step.came)
                (prompt if step.is_prompt else decoded).append(found)
                at += n
                tell(way.name, at / len(self._rows))
            n_bytes = bench.need.weights
        return _row(way.name, joined(prompt), joined(decoded), n_bytes)


def _opened(way: Way, place: Place) -> AbstractContextManager[Bench]:
    return opened(
        way.backend,
        place.device,
        way.path,
        threads=place.threads,
        n_seq=N_TEXTS,
        n_rows=STEP_ROWS,
        n_ctx=TEXT_TOKENS,
        kv_dtype=way.kv_dtype,
        weight_kind=way.weights,
    )


def _row(name: str, prompt: Judged, decoded: Judged, n_bytes: int) -> Row:
    every = joined([prompt, decoded])
    return Row(
        name=name,
        mean_kl=float(every.kl.mean()),
        p99_kl=float(np.quantile(every.kl, 0.99)),
        prompt_kl=float(prompt.kl.mean()),
        decode_kl=float(decoded.kl.mean()),
        same_best=float(every.same_best.mean()),
        perplexity=perplexity(every.surprise),
        weights_bytes=n_bytes,
    )
