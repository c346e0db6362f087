"""A tiny random BERT: as a GGUF file with a WordPiece vocabulary, and computed again in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import erf
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PAD, UNK, CLS, SEP, MASK = range(5)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ("the", "cat", "dog", "sat", "on", "mat", "is", "a", "ran", "home", "bird", "sea")
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("\u2581" + sign for sign in f"{_LETTERS}.,!?"),
    *_LETTERS,
    *("\u2581" + word for word in WORDS if len(word) > 1),
    "ing",
]
"""In the spelling of GGUF files: a word begins with a block, what goes on with one does not."""


@dataclass(frozen=True)
class TinyBert:
    """Dimensions, and what comes after the last layer."""

    pooling: str | None = "mean"  # None: the file does not say
    labels: tuple[str, ...] = ()  # of a head, which there is where they or a rank are
    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    d_ff: int = 128
    context: int = 512
    seed: int = 0
    rounds: bool = (
        True  # whether NumPy takes GELU from the table in half precision that llama.cpp has
    )

    @property
    def n_labels(self) -> int:
        return len(self.labels) or int(self.pooling == "rank")

    @cache  # noqa: B019  # as many as there are shapes
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """By their names in the file."""
        random = np.random.default_rng(self.seed)
        d, ff = self.d_model, self.d_ff
        found: dict[str, NDArray[np.float32]] = {}

        def add(name: str, *shape: int, scale: float, offset: float = 0.0) -> None:
            values = random.standard_normal(shape) * scale + offset
            found[name] = values.astype(np.float32)

        def linear(name: str, n_out: int, n_in: int) -> None:
            add(f"{name}.weight", n_out, n_in, scale=1 / np.sqrt(n_in))
            add(f"{name}.bias", n_out, scale=0.1)

        def norm(name: str) -> None:
            add(f"{name}.weight", d, scale=0.2, offset=1.0)
            add(f"{name}.bias", d, scale=0.1)

        add("token_embd.weight", len(VOCABULARY), d, scale=1.0)
        add("token_types.weight", 2, d, scale=0.3)
        add("position_embd.weight", self.context, d, scale=0.3)
        norm("token_embd_norm")
        for i in range(self.n_layers):
            for part in ("q", "k", "v", "output"):
                linear(f"blk.{i}.attn_{part}", d, d)
            linear(f"blk.{i}.ffn_up", ff, d)
            linear(f"blk.{i}.ffn_down", d, ff)
            norm(f"blk.{i}.attn_output_norm")
            norm(f"blk.{i}.layer_output_norm")
        if self.n_labels:
            linear("cls", d, d)
            linear("cls.output", self.n_labels, d)
        return found

    def write(self, path: Path) -> Path:
        """The file."""
        writer = gguf.GGUFWriter(path, "bert")
        writer.add_name("tiny-bert")
        writer.add_context_length(self.context)
        writer.add_embedding_length(self.d_model)
        writer.add_block_count(self.n_layers)
        writer.add_feed_forward_length(self.d_ff)
        writer.add_head_count(self.n_heads)
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        if self.pooling is not None:
            writer.add_pooling_type(gguf.PoolingType[self.pooling.upper()])
        if self.labels:
            writer.add_classifier_output_labels(list(self.labels))
        write_vocabulary(writer)
        for name, values in self.tensors().items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    # --- the same in NumPy, in double precision ------------------------------------------------

    def hidden(self, tokens: Sequence[int]) -> Array:
        """[n, d_model] after the last layer."""
        weights = self.tensors()

        def linear(name: str, x: Array) -> Array:
            return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

        def norm(name: str, x: Array) -> Array:
            centred = x - x.mean(-1, keepdims=True)
            scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-12)
            found = centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]
            return np.asarray(found)

        def heads(x: Array) -> Array:
            return x.reshape(len(tokens), self.n_heads, -1).transpose(1, 0, 2)

        x = weights["token_embd.weight"][list(tokens)].astype(np.float64)
        x += weights["token_types.weight"][0] + weights["position_embd.weight"][: len(tokens)]
        x = norm("token_embd_norm", x)
        for i in range(self.n_layers):
            q, k, v = (heads(linear(f"blk.{i}.attn_{part}", x)) for part in "qkv")
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
            odds = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (odds / odds.sum(-1, keepdims=True)) @ v
            mixed = mixed.transpose(1, 0, 2).reshape(len(tokens), -1)
            x = norm(f"blk.{i}.attn_output_norm", x + linear(f"blk.{i}.attn_output", mixed))
            inner = (_rounded_gelu if self.rounds else _gelu)(linear(f"blk.{i}.ffn_up", x))
            x = norm(f"blk.{i}.layer_output_norm", x + linear(f"blk.{i}.ffn_down", inner))
        return x

    def vector(self, tokens: Sequence[int], pooling: str | None = None) -> Array:
        """[d_model] of length 1."""
        hidden = self.hidden(tokens)
        pooled = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}
        vector = pooled[pooling or self.pooling or ""]
        return np.asarray(vector / np.linalg.norm(vector))

    def relevance(self, tokens: Sequence[int]) -> float:
        """What the head says of a pair, through a sigmoid."""
        weights = self.tensors()
        first = np.tanh(self.hidden(tokens)[0] @ weights["cls.weight"].T + weights["cls.bias"])
        logit = first @ weights["cls.output.weight"].T + weights["cls.output.bias"]
        return float(1 / (1 + np.exp(-logit[0])))


def _gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2))))


def _rounded_gelu(x: Array) -> Array:
    near = x.astype(np.float16).astype(np.float64)
    inner = np.sqrt(2 / np.pi) * near * (1 + 0.044715 * np.square(near))
    return np.asarray((0.5 * near * (1 + np.tanh(inner))).astype(np.float16), np.float64)


def some_texts(n: int, *, seed: int = 0, longest: int = 40) -> list[str]:
    """Texts of words of the vocabulary, of various lengths."""
    random = np.random.default_rng(seed)
    return [
        " ".join(random.choice(WORDS, size=int(random.integers(1, longest + 1)))) for _ in range(n)
    ]


def write_vocabulary(writer: gguf.GGUFWriter) -> None:
    """WordPiece tokens, the five marks first."""
    kinds = [gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(VOCABULARY) - 5)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(CLS)
    writer.add_sep_token_id(SEP)
    writer.add_mask_token_id(MASK)
