"""The contract of encoders: models that turn texts into vectors, or pairs of texts into scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import BackendError
from hearth_backends.weights.encoding import Pooling

Task: TypeAlias = Literal["generate", "embed", "rerank"]
"""What a loaded model does; the last two are encoders'."""

Vectors: TypeAlias = NDArray[np.float32]  # [n, dim]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How a whole model is to encode, and in what room."""

    task: Literal["embed", "rerank"]
    pooling: Pooling  # "rank" to rerank
    n_ctx: int  # tokens of one text at most
    n_rows: int  # tokens of one batch at most; not fewer than n_ctx
    n_texts: int  # texts of one batch at most
    threads: int
    kv_dtype: str = "f16"  # of keys and values while they are used; "f32": where exactness counts
    weight_kind: str = "file"  # as of a StageSpec


class Encoder(ABC):
    """A model without a scheduler and without key-value memory; used from one thread at a time."""

    spec: EncoderSpec
    dim: int  # of a vector; 1 to rerank

    @abstractmethod
    def encode(
        self, token_lists: Sequence[Sequence[int]], seconds: Sequence[int | None] = ()
    ) -> Vectors:
        """One batch [n, dim], whatever else is in it: vectors of length 1, or relevances in [0, 1].

        No list is empty or over n_ctx, all of them are within n_rows and n_texts. `seconds`: where
        the second text of a pair begins, for models that tell the two apart. Raises StepError when
        the batch failed and may be repeated, BackendError when the encoder is beyond use.
        """

    @abstractmethod
    def close(self) -> None:
        """Free everything; idempotent."""


class Pair(NamedTuple):
    """Tokens of two texts as a model that scores pairs wants them."""

    tokens: list[int]
    second: int  # where the second text begins
    n_second: int  # tokens of it, without what the model puts around


@runtime_checkable
class PairTokenizer(Protocol):
    """A Tokenizer whose model has a form for pairs."""

    @property
    def joins_pairs(self) -> bool:
        """Whether the vocabulary has what stands between two texts."""

    def encode_pair(self, first: str, second: str, *, most: int | None = None) -> Pair:
        """Token ids of a pair, at most `most` of the second text; marks in the texts are plain text."""


def check_batch(spec: EncoderSpec, token_lists: Sequence[Sequence[int]], n_vocab: int) -> list[int]:
    """The lengths of a batch; raises BackendError for one that the encoder must not be given."""
    lengths = [len(tokens) for tokens in token_lists]
    if not lengths or len(lengths) > spec.n_texts or sum(lengths) > spec.n_rows:
        raise BackendError(
            f"a batch of {len(lengths)} texts and {sum(lengths)} tokens in an encoder of 1 to "
            f"{spec.n_texts} texts and {spec.n_rows} tokens"
        )
    if min(lengths) < 1 or max(lengths) > spec.n_ctx:
        raise BackendError(
            f"texts of {min(lengths)} to {max(lengths)} tokens in an encoder of 1 to {spec.n_ctx}"
        )
    if any(not 0 <= token < n_vocab for tokens in token_lists for token in tokens):
        raise BackendError("a batch has tokens outside the vocabulary")
    return lengths


def unit_length(vectors: Vectors) -> Vectors:
    """Rows over their Euclidean length; a row of zeros stays one."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=-1, keepdims=True)
    found: Vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return found
