"""From the header of a GGUF file to a ModelSpec; pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.gguf_encoding import encoding_from_header
from hearth_backends.weights.gguf_header import Entry, Header, StringArray
from hearth_backends.weights.gguf_names import CANONICAL, canonical_name, is_known
from hearth_backends.weights.spec import ModelSpec, RopeSpec, StateSpec, TensorInfo

MOST_LAYERS = 10_000
LARGEST_NUMBER = 1 << 31
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")

T = TypeVar("T", bound=bool | int | float | str)


class Metadata:
    """Typed reading of metadata; a value of the wrong type or out of range is a ModelFileError."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value, or None where it is absent."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value = entry.value
        if type(value) is not kind:  # exactly: a bool is an int to isinstance
            raise ModelFileError(f"corrupt header: {key} should be {kind.__name__}: {value!r:.60}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelFileError(f"corrupt header: {key} = {value}")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value; raises ModelFileError where it is absent."""
        value = self.get(key, kind)
        if value is None:
            raise ModelFileError(f"the header lacks {key}")
        return value

    def size(self, key: str, default: int | None = None, *, or_zero: bool = False) -> int:
        """A positive number; the largest where the file has one for each layer.

        `or_zero`: zero stands for the default.
        """
        entry = self._entries.get(key)
        if entry is not None and isinstance(entry.value, np.ndarray):
            kind = entry.value.dtype.kind
            value = int(entry.value.max()) if len(entry.value) and kind in "iu" else 0
        else:
            found = self.get(key, int)
            value = found if found is not None else (default or self.need(key, int))
        if or_zero and value == 0 and default is not None:
            value = default
        if not 0 < value < LARGEST_NUMBER:
            raise ModelFileError(f"corrupt header: {key} = {value}")
        return value

    def length(self, key: str) -> int | None:
        """The length of an array."""
        entry = self._entries.get(key)
        if entry is None or not isinstance(entry.value, np.ndarray | StringArray):
            return None
        return len(entry.value)


def spec_from_header(header: Header, path: Path, file_bytes: int, digest: str) -> ModelSpec:
    """Describe the model; raises ModelFileError for what is missing or senseless, and Unsupported."""
    meta = Metadata(header.metadata)
    architecture = _architecture(meta)
    tensors = _tensor_infos(header, architecture)
    key = architecture + "."
    d_model = meta.size(key + "embedding_length")
    may_lack = architecture not in CANONICAL  # attention and feed-forward, which count 0 then
    n_heads = meta.size(key + "attention.head_count", 1, or_zero=may_lack)
    head_dim = meta.size(key + "attention.key_length", max(1, d_model // n_heads))
    n_layers = meta.size(key + "block_count")
    if n_layers > MOST_LAYERS:
        raise ModelFileError(f"corrupt header: {key}block_count = {n_layers}")
    ids = [meta.get(f"tokenizer.ggml.{name}", int) for name in ("bos_token_id", "eos_token_id")]
    return ModelSpec(
        path=path,
        format="gguf",
        digest=digest,
        name=meta.get("general.name", str) or path.stem,
        architecture=architecture,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=meta.size(key + "attention.head_count_kv", n_heads, or_zero=may_lack),
        head_dim=head_dim,
        d_ff=meta.size(key + "feed_forward_length", 4 * d_model, or_zero=may_lack),
        n_vocab=_n_vocab(meta, architecture, tensors),
        context_trained=meta.size(key + "context_length"),
        norm_eps=_norm_eps(meta, architecture),
        rope=_rope(meta, architecture, head_dim, tensors),
        tied_embeddings="lm_head.weight" not in tensors,
        quantization=_prevailing_type(tensors),
        file_bytes=file_bytes,
        n_parameters=sum(tensor.n_elements for tensor in header.tensors),
        chat_template=meta.get("tokenizer.chat_template", str),
        bos_id=ids[0],
        eos_id=ids[1],
        end_ids=_end_ids(meta),
        add_bos=_adds_bos(meta),
        tensors=tensors,
        sliding_window=_window(meta, architecture),
        encoding=encoding_from_header(header.metadata, architecture, tensors),
        state=_state(meta, architecture, tensors, d_model, n_heads),
    )


def _architecture(meta: Metadata) -> str:
    kind = meta.get("general.type", str) or "model"
    if kind != "model":
        raise ModelFileError(f"it is of type {kind!r}, not a model")
    n_files = meta.get("split.count", int) or 1
    if n_files > 1:
        raise Unsupported(f"the model is split into {n_files} files; merge them with gguf-split")
    architecture = meta.need("general.architecture", str)
    if not is_known(architecture):
        raise Unsupported(f"no backend runs the architecture {architecture!r:.80}")
    return architecture


def _tensor_infos(header: Header, architecture: str) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    for tensor in header.tensors:
        name, layer = canonical_name(architecture, tensor.name)
        if name in infos:
            raise ModelFileError(f"two tensors are called {name}")
        infos[name] = TensorInfo(
            name, tensor.name, tensor.shape, tensor.type.name, tensor.n_bytes, layer
        )
    return infos


def _n_vocab(meta: Metadata, architecture: str, tensors: Mapping[str, TensorInfo]) -> int:
    n_tokens = meta.length("tokenizer.ggml.tokens")
    if n_tokens:
        return n_tokens
    embedding = tensors.get("model.embed_tokens.weight")
    rows = embedding.shape[0] if embedding is not None else None
    return meta.size(architecture + ".vocab_size", rows)


def _norm_eps(meta: Metadata, architecture: str) -> float:
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon"):
        value = meta.get(f"{architecture}.attention.{name}", float)
        if value is not None:
            return value
    if architecture in CANONICAL:
        raise ModelFileError(f"the header lacks {architecture}.attention.layer_norm_rms_epsilon")
    return 0.0


def _rope(
    meta: Metadata, architecture: str, head_dim: int, tensors: Mapping[str, TensorInfo]
) -> RopeSpec:
    key = architecture + ".rope."
    linear = meta.get(key + "scale_linear", float)  # what files before "scaling" said
    kind = meta.get(key + "scaling.type", str) or (
        "linear" if linear not in (None, 0.0, 1.0) else "none"
    )
    factor = meta.get(key + "scaling.factor", float)
    if "rope_factors_long.weight" in tensors:
        kind = "longrope"
    elif kind == "none" and "rope_freqs.weight" in tensors:
        kind = "llama3"
    return RopeSpec(
        theta=meta.get(key + "freq_base", float) or 10_000.0,
        n_dims=meta.size(key + "dimension_count", head_dim),
        scaling=kind,
        factor=factor or linear or 1.0,
        original_context=meta.get(key + "scaling.original_context_length", int),
    )


def _window(meta: Metadata, architecture: str) -> int | None:
    key = architecture + ".attention.sliding_window"
    return meta.get(key, int) or None


def _state(
    meta: Metadata,
    architecture: str,
    tensors: Mapping[str, TensorInfo],
    d_model: int,
    n_heads: int,
) -> StateSpec | None:
    """What layers with tensors of recurrent kinds carry along; None where there are none."""
    stems: dict[int, set[str]] = {}
    for tensor in tensors.values():
        if tensor.layer is not None:
            stems.setdefault(tensor.layer, set()).add(tensor.stored_name.split(".")[2])
    carrying = [s for s in stems.values() if any(stem.startswith(_CARRYING) for stem in s)]
    attending = [
        s for s in stems.values() if s & _ATTENDING and (s not in carrying or "attn_qkv" not in s)
    ]
    n_elements = _state_elements(meta, architecture, d_model, n_heads)
    if not carrying or not n_elements:
        return None
    return StateSpec(len(carrying), len(attending), n_elements)


_CARRYING = ("ssm_", "shortconv", "time_mix_")
_ATTENDING = frozenset({"attn_k", "attn_kv_a_mqa", "attn_qkv"})


def _state_elements(meta: Metadata, architecture: str, d_model: int, n_heads: int) -> int:
    """Numbers in one layer's state: what a convolution looks back on, and what is carried on.

    (llama.cpp: llama_hparams::n_embd_r and n_embd_s.)
    """

    def number(name: str, default: int = 0) -> int:
        value = meta.get(f"{architecture}.{name}", int)
        return default if value is None else value

    head = number("wkv.head_size")
    if head:
        return (number("token_shift_count", 2) + head) * d_model
    n_back = number("shortconv.l_cache")
    if n_back:
        return (n_back - 1) * d_model
    head = number("kda.head_dim")
    n_back = max(0, number("ssm.conv_kernel", 4 if head else 0) - 1)
    if head:
        return (3 * n_back + head) * n_heads * head
    inner, n_state = number("ssm.inner_size"), number("ssm.state_size")
    return n_back * (inner + 2 * number("ssm.group_count") * n_state) + n_state * inner


def _prevailing_type(tensors: Mapping[str, TensorInfo]) -> str:
    """The type that takes the most bytes."""
    n_bytes: Counter[str] = Counter()
    for tensor in tensors.values():
        n_bytes[tensor.dtype] += tensor.n_bytes
    return n_bytes.most_common(1)[0][0]


def _end_ids(meta: Metadata) -> frozenset[int]:
    ids = (meta.get(f"tokenizer.ggml.{name}", int) for name in _END_KEYS)
    return frozenset(i for i in ids if i is not None)


def _adds_bos(meta: Metadata) -> bool:
    said = meta.get("tokenizer.ggml.add_bos_token", bool)
    return said if said is not None else meta.get("tokenizer.ggml.model", str) == "llama"
