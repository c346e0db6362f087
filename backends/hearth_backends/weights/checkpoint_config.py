"""From a checkpoint's config.json to dimensions and a Variant; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights import rope
from hearth_backends.weights.rope import RopeTable
from hearth_backends.weights.spec import RopeSpec
from hearth_backends.weights.variant import Variant, alternating

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "gemma3": "gemma3",
    "phi3": "phi3",
}  # fmt: skip
"""`model_type` to the name that GGUF has for the architecture."""

_SCALINGS = {"default": "none", "dynamic": "none", "su": "longrope"}
_KNOWN_SCALINGS = ("none", "linear", "llama3", "yarn", "longrope")
_ACTIVATIONS: dict[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}

T = TypeVar("T", bound=int | float | str | bool)


class Config:
    """Typed reading of a config.json; raises ModelFileError for what is missing or of another type."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        text = values.get("text_config")
        self._values = {**values, **text} if isinstance(text, dict) else dict(values)
        if isinstance(text, dict):
            self._values["model_type"] = values.get("model_type", text.get("model_type"))

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value, or None where it is absent or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ModelFileError(f"config.json: {key} should be {kind.__name__}: {value!r:.60}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelFileError(f"config.json: {key} = {value}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive number."""
        value = self.get(key, int)
        value = default if value is None else value
        if value is None:
            raise ModelFileError(f"config.json lacks {key}")
        if not 0 < value < 1 << 31:
            raise ModelFileError(f"config.json: {key} = {value}")
        return value

    def table(self, key: str) -> Mapping[str, Any]:
        """A table; empty where it is absent or null."""
        value = self._values.get(key) or {}
        if not isinstance(value, dict):
            raise ModelFileError(f"config.json: {key} should be a table: {value!r:.60}")
        return value

    def ids(self, key: str) -> frozenset[int]:
        """A token, or a list of them."""
        value = self._values.get(key)
        values = value if isinstance(value, list) else [value]
        return frozenset(v for v in values if type(v) is int)

    def names(self, key: str) -> list[str]:
        """A list of words; empty where it is absent."""
        value = self._values.get(key) or []
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ModelFileError(f"config.json: {key} should be a list of words: {value!r:.60}")
        return value

    @property
    def architecture(self) -> str:
        """Raises Unsupported for one that no backend builds from a checkpoint."""
        kind = self.get("model_type", str)
        if kind not in ARCHITECTURES:
            raise Unsupported(
                f"checkpoints of the type {kind!r:.60} are not read; {', '.join(sorted(ARCHITECTURES))} are"
            )
        return ARCHITECTURES[kind]

    @property
    def head_dim(self) -> int:
        return self.size("head_dim", max(1, self.size("hidden_size") // self.n_heads))

    @property
    def n_heads(self) -> int:
        return self.size("num_attention_heads")

    @property
    def n_layers(self) -> int:
        return self.size("num_hidden_layers")


def rope_spec(config: Config) -> RopeSpec:
    """What the ModelSpec says of rotation; raises Unsupported for a scaling that nobody knows."""
    given = _rope_given(config, "full_attention")
    kind = _scaling(given)
    fraction = _number(given, "partial_rotary_factor") or config.get("partial_rotary_factor", float)
    return RopeSpec(
        theta=_number(given, "rope_theta") or config.get("rope_theta", float) or 10_000.0,
        n_dims=int(config.head_dim * (fraction or 1.0)),
        scaling=kind,
        factor=_number(given, "factor") or 1.0,
        original_context=_original_context(config, given),
    )


def windows(config: Config) -> tuple[int, ...]:
    """Of each layer, the tokens that a row attends to; 0: all before it."""
    n_layers = config.n_layers
    window = config.get("sliding_window", int)
    if config.get("use_sliding_window", bool) is False:
        window = None
    kinds = config.names("layer_types")
    if kinds:
        if len(kinds) != n_layers:
            raise ModelFileError(f"config.json: {len(kinds)} layer_types for {n_layers} layers")
        return tuple((window or 0) if kind == "sliding_attention" else 0 for kind in kinds)
    period = {"gemma2": 2, "gemma3": config.size("sliding_window_pattern", 6)}.get(
        config.architecture, 1
    )
    return alternating(n_layers, period, window)


def variant(config: Config, n_ctx: int) -> Variant:
    """How the checkpoint computes sequences of up to n_ctx tokens; raises Unsupported."""
    is_gemma = config.architecture.startswith("gemma")
    seen = windows(config)
    ropes: tuple[RopeTable, ...] = (_rope_table(config, "full_attention", n_ctx),)
    rope_of = (0,) * config.n_layers
    if config.architecture == "gemma3":
        ropes = (*ropes, _local_rope(config))
        rope_of = tuple(1 if window else 0 for window in seen)
    scalar = config.get("query_pre_attn_scalar", float) or float(config.head_dim)
    return Variant(
        attention_scale=scalar**-0.5,
        ropes=ropes,
        rope_of=rope_of,
        windows=seen,
        attention_softcap=config.get("attn_logit_softcapping", float) or 0.0,
        logit_softcap=config.get("final_logit_softcapping", float) or 0.0,
        token_scale=math.sqrt(config.size("hidden_size")) if is_gemma else 1.0,
        norm_offset=1.0 if is_gemma else 0.0,
        activation=_activation(config, is_gemma=is_gemma),
    )


def _activation(config: Config, *, is_gemma: bool) -> Literal["silu", "gelu_tanh"]:
    if is_gemma:  # the first of them wrote "gelu", and meant this
        return "gelu_tanh"
    name = config.get("hidden_activation", str) or config.get("hidden_act", str) or "silu"
    if name not in _ACTIVATIONS:
        raise Unsupported(f"an activation of the kind {name!r:.40}")
    return _ACTIVATIONS[name]


# --- rotation ----------------------------------------------------------------------------------


def _rope_given(config: Config, layer_kind: str) -> Mapping[str, Any]:
    """What config.json says of rotation, under its newer name or the older one."""
    given = config.table("rope_parameters") or config.table("rope_scaling")
    inner = given.get(layer_kind)
    return inner if isinstance(inner, dict) else given


def _scaling(given: Mapping[str, Any]) -> str:
    kind = given.get("rope_type") or given.get("type") or "default"
    kind = _SCALINGS.get(kind, kind)
    if kind not in _KNOWN_SCALINGS:
        raise Unsupported(f"rope scaling of the kind {kind!r:.40}")
    return str(kind)


def _number(given: Mapping[str, Any], key: str) -> float | None:
    value = given.get(key)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ModelFileError(f"config.json: {key} of the rotation = {value!r:.60}")
    return float(value)


def _original_context(config: Config, given: Mapping[str, Any]) -> int | None:
    value = _number(given, "original_max_position_embeddings")
    if value is not None:
        return int(value)
    return config.get("original_max_position_embeddings", int)


def _rope_table(config: Config, layer_kind: str, n_ctx: int) -> RopeTable:
    given, spec = _rope_given(config, layer_kind), rope_spec(config)
    context = config.size("max_position_embeddings")
    original = spec.original_context or context
    if spec.scaling == "none":
        return rope.plain(spec.theta, spec.n_dims)
    if spec.scaling == "linear":
        return rope.plain(spec.theta, spec.n_dims, factor=spec.factor)
    if spec.scaling == "llama3":
        low, high = _number(given, "low_freq_factor"), _number(given, "high_freq_factor")
        by = rope.Llama3(spec.factor, original, low or 1.0, high or 4.0)
        return rope.llama3(spec.theta, spec.n_dims, by)
    if spec.scaling == "yarn":
        return rope.yarn(spec.theta, spec.n_dims, _yarn(given, spec.factor, original))
    factor = _number(given, "factor") or context / original
    magnitude = _number(given, "attention_factor") or rope.longrope_magnitude(factor, original)
    which = given.get("long_factor" if n_ctx > original else "short_factor")
    if not isinstance(which, list) or len(which) != spec.n_dims // 2:
        raise ModelFileError("config.json: factors of the rotation are missing, or too few")
    return rope.longrope(spec.theta, spec.n_dims, which, magnitude)


def _yarn(given: Mapping[str, Any], factor: float, original: int) -> rope.Yarn:
    if given.get("mscale") is not None or given.get("truncate") is False:
        raise Unsupported("YaRN with mscale, or without whole dimensions")
    return rope.Yarn(
        factor=factor,
        original_context=original,
        beta_fast=_number(given, "beta_fast") or 32.0,
        beta_slow=_number(given, "beta_slow") or 1.0,
        magnitude=_number(given, "attention_factor"),
    )


def _local_rope(config: Config) -> RopeTable:
    """Of Gemma 3's windowed layers, which are never scaled."""
    given = config.table("rope_parameters").get("sliding_attention")
    theta = _number(given, "rope_theta") if isinstance(given, dict) else None
    theta = theta or config.get("rope_local_base_freq", float) or 10_000.0
    return rope.plain(theta, rope_spec(config).n_dims)
