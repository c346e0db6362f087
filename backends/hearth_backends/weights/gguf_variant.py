"""From a GGUF file to a Variant: what llama.cpp's graphs know by the architecture's name."""

from __future__ import annotations

import math

from hearth_backends.errors import Unsupported
from hearth_backends.weights import rope
from hearth_backends.weights.gguf_file import GgufFile
from hearth_backends.weights.gguf_spec import Metadata
from hearth_backends.weights.rope import RopeTable
from hearth_backends.weights.spec import ModelSpec
from hearth_backends.weights.variant import Variant, alternating

_PERIODS = {"gemma2": 2, "gemma3": 6, "phi3": 1}
"""Of layers, every so-manieth sees all tokens; see `alternating`."""
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Models of so many layers divide by the root of d_model / n_heads; the file does not say."""


def gguf_variant(file: GgufFile, n_ctx: int) -> Variant:
    """How the file's decoder computes for sequences of up to n_ctx tokens; raises Unsupported."""
    spec, meta = file.spec, Metadata(file.header.metadata)
    key = spec.architecture + "."
    is_gemma = spec.architecture.startswith("gemma")
    windows = alternating(spec.n_layers, _PERIODS.get(spec.architecture, 0), spec.sliding_window)
    ropes, rope_of = _ropes(file, meta, windows, n_ctx)
    return Variant(
        attention_scale=_attention_scale(spec),
        ropes=ropes,
        rope_of=rope_of,
        windows=windows,
        attention_softcap=_softcap(meta, key + "attn_logit_softcapping"),
        logit_softcap=_softcap(meta, key + "final_logit_softcapping"),
        token_scale=math.sqrt(spec.d_model) if is_gemma else 1.0,
        norm_offset=1.0 if is_gemma else 0.0,
        activation="gelu_tanh" if is_gemma else "silu",
    )


_SOFTCAPS = {"gemma2.attn_logit_softcapping": 50.0, "gemma2.final_logit_softcapping": 30.0}
"""Where the file does not say."""


def _softcap(meta: Metadata, key: str) -> float:
    told = meta.get(key, float)
    return _SOFTCAPS.get(key, 0.0) if told is None else told


def _attention_scale(spec: ModelSpec) -> float:
    if _GEMMA_27B_LAYERS.get(spec.architecture) == spec.n_layers:
        return float((spec.d_model / spec.n_heads) ** -0.5)
    return float(spec.head_dim**-0.5)


def _ropes(
    file: GgufFile, meta: Metadata, windows: tuple[int, ...], n_ctx: int
) -> tuple[tuple[RopeTable, ...], tuple[int, ...]]:
    """Tables, and which of them each layer uses: Gemma 3's windowed layers have one of their own."""
    ropes = (_rope(file, meta, n_ctx),)
    if file.spec.architecture != "gemma3":
        return ropes, (0,) * file.spec.n_layers
    theta = meta.get("gemma3.rope.freq_base_swa", float) or 10_000.0
    local = rope.plain(theta, file.spec.rope.n_dims)
    return (*ropes, local), tuple(1 if window else 0 for window in windows)


def _rope(file: GgufFile, meta: Metadata, n_ctx: int) -> RopeTable:
    asked, key = file.spec.rope, file.spec.architecture + ".rope.scaling."
    theta, n_dims = asked.theta, asked.n_dims
    if asked.scaling == "none":
        return rope.plain(theta, n_dims)
    if asked.scaling == "linear":
        return rope.plain(theta, n_dims, factor=asked.factor)
    if asked.scaling == "llama3":
        return rope.divided(theta, n_dims, file.tensor("rope_freqs.weight"))
    original = asked.original_context or file.spec.context_trained
    told = meta.get(key + "attn_factor", float)
    if asked.scaling == "yarn":
        natural = 0.1 * math.log(asked.factor) + 1.0 if asked.factor > 1 else 1.0
        by = rope.Yarn(
            factor=asked.factor,
            original_context=original,
            beta_fast=meta.get(key + "yarn_beta_fast", float) or 32.0,
            beta_slow=meta.get(key + "yarn_beta_slow", float) or 1.0,
            magnitude=natural * (told or 1.0),
        )
        return rope.yarn(theta, n_dims, by)
    if asked.scaling == "longrope":
        which = "long" if n_ctx > original else "short"
        divisors = file.tensor(f"rope_factors_{which}.weight")
        return rope.longrope(theta, n_dims, divisors, told or 1.0)
    raise Unsupported(f"rope scaling of the kind {asked.scaling!r:.40}")
