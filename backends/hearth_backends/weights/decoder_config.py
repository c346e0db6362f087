"""What config.json or genai_config.json say of a decoder whose graph was made elsewhere; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.checkpoint_config import Config
from hearth_backends.weights.decoder_names import DecoderNames

_PARTS = ("encoder", "vision", "speech", "embedding")
"""Sections of genai_config.json that stand for graphs of their own."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Dimensions as the files beside the graph state them; None where they do not."""

    architecture: str
    context: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    bos_id: int | None
    eos_ids: frozenset[int]
    names: DecoderNames
    d_ff: int = 0  # 0: not stated
    file: str | None = None  # the graph's, where it is named


def from_transformers(values: Mapping[str, Any]) -> DecoderConfig:
    """Of a config.json; raises ModelFileError, and Unsupported for what is more than a decoder."""
    config = Config(values)
    kind = config.get("model_type", str) or "unknown"
    if config.get("is_encoder_decoder", bool):
        raise Unsupported(f"{kind} is an encoder and a decoder; Hearth runs decoders")
    d_model = _size(config, "hidden_size", "n_embd", "d_model")
    n_heads = _size(config, "num_attention_heads", "n_head", "n_heads")
    return DecoderConfig(
        architecture=kind,
        context=_size(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        d_model=d_model,
        n_layers=_size(config, "num_hidden_layers", "n_layer", "n_layers"),
        n_heads=n_heads,
        n_kv_heads=config.size("num_key_value_heads", n_heads),
        head_dim=config.size("head_dim", max(1, d_model // n_heads)),
        d_ff=_size(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * d_model),
        n_vocab=config.size("vocab_size"),
        bos_id=min(config.ids("bos_token_id"), default=None),
        eos_ids=config.ids("eos_token_id"),
        names=DecoderNames(),
    )


def from_genai(values: Mapping[str, Any]) -> DecoderConfig:
    """Of a genai_config.json; raises ModelFileError, and Unsupported for what is more than a decoder."""
    model = _table(values, "model")
    config, decoder = Config(model), Config(_table(model, "decoder"))
    kind = config.get("type", str) or "unknown"
    parts = [name for name in _PARTS if model.get(name)]
    if parts:
        raise Unsupported(
            f"{kind} is made of {', '.join(parts)} and decoder; Hearth runs decoders that are one graph"
        )
    pipeline = _table(model, "decoder").get("pipeline")
    if pipeline:
        raise Unsupported(
            f"{kind} is a pipeline of {len(pipeline)} graphs; Hearth runs decoders that are one graph"
        )
    _refuse_sliding(decoder)
    n_heads = decoder.size("num_attention_heads")
    d_model = decoder.size("hidden_size")
    return DecoderConfig(
        architecture=kind,
        context=config.size("context_length"),
        d_model=d_model,
        n_layers=decoder.size("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=decoder.size("num_key_value_heads", n_heads),
        head_dim=decoder.size("head_size", max(1, d_model // n_heads)),
        n_vocab=config.size("vocab_size"),
        bos_id=min(config.ids("bos_token_id"), default=None),
        eos_ids=config.ids("eos_token_id"),
        names=_names(decoder.table("inputs"), decoder.table("outputs")),
        file=decoder.get("filename", str) or "model.onnx",
    )


def _refuse_sliding(decoder: Config) -> None:
    """Keys and values that forget, and prompts cut for a graph of one length, are not kept here."""
    window = decoder.table("sliding_window")
    if window and (window.get("slide_key_value_cache", True) or window.get("slide_inputs", True)):
        raise Unsupported(
            "its keys and values slide along with a window (decoder.sliding_window), which slots do not"
        )


def _names(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> DecoderNames:
    plain = DecoderNames()

    def name(table: Mapping[str, Any], key: str, default: str) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise ModelFileError(f"genai_config.json: {key} should be a name: {value!r:.60}")
        return value

    for table, key in ((inputs, "past_names"), (outputs, "present_names")):
        if table.get(key):
            raise Unsupported(f"its keys and values share one tensor ({key}: {table[key]!r:.60})")
    return DecoderNames(
        input_ids=name(inputs, "input_ids", plain.input_ids),
        attention_mask=name(inputs, "attention_mask", plain.attention_mask),
        position_ids=name(inputs, "position_ids", plain.position_ids),
        last_position=name(inputs, "past_sequence_length", plain.last_position),
        total_length=name(inputs, "total_sequence_length", plain.total_length),
        current_length=name(inputs, "current_sequence_length", plain.current_length),
        past_keys=name(inputs, "past_key_names", plain.past_keys),
        past_values=name(inputs, "past_value_names", plain.past_values),
        logits=name(outputs, "logits", plain.logits),
        present_keys=name(outputs, "present_key_names", plain.present_keys),
        present_values=name(outputs, "present_value_names", plain.present_values),
    )


def _table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    if not isinstance(value, dict):
        raise ModelFileError(f"genai_config.json: {key} should be a table: {value!r:.60}")
    return value


def _size(config: Config, *keys: str, default: int | None = None) -> int:
    """The first of the keys that is there; raises ModelFileError, naming the usual one."""
    for key in keys:
        if config.get(key, int) is not None:
            return config.size(key)
    return config.size(keys[0], default)
