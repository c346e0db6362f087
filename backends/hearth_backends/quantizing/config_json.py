"""The config.json of a checkpoint that is made from a GGUF file: the same model, in the other format's words."""

from __future__ import annotations

from typing import Any

import numpy as np

from hearth_backends.errors import Unsupported
from hearth_backends.weights import checkpoint_config
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.rope import RopeTable
from hearth_backends.weights.spec import ModelSpec
from hearth_backends.weights.variant import Variant

_TYPES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma": ("gemma", "GemmaForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
}
"""GGUF's name of an architecture to `model_type` and class."""
_SHORT = 512
"""A context within what any model was trained for, to compare rotations at."""
_LLAMA3_ORIGINAL = 8192
"""The context of all Llama 3 before it was stretched; GGUF keeps the divisors and not what they come of."""


def config_of(reader: TensorReader) -> dict[str, Any]:
    """What config.json says of the model; raises Unsupported where that cannot be said in its words."""
    model = reader.spec
    if model.architecture not in _TYPES:
        raise Unsupported(
            f"checkpoints of {model.architecture} are not written; of {', '.join(_TYPES)} they are"
        )
    kind, name = _TYPES[model.architecture]
    variant = reader.variant(min(_SHORT, model.context_trained))
    config: dict[str, Any] = {
        "architectures": [name],
        "model_type": kind,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_ff,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "vocab_size": model.n_vocab,
        "max_position_embeddings": model.context_trained,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embeddings,
        "hidden_act": "silu" if variant.activation == "silu" else "gelu_pytorch_tanh",
        "bos_token_id": model.bos_id,
        "eos_token_id": model.eos_id,
        "pad_token_id": None,  # told, because some types have a number of their own for it
        "torch_dtype": "float16",
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in model.tensors,
        "rope_theta": model.rope.theta,
        **_rotation(reader, variant),
        **_windows(model),
    }
    if model.architecture.startswith("gemma"):
        config |= _gemma(model, variant)
    _check(config, reader)
    return config


def _rotation(reader: TensorReader, variant: Variant) -> dict[str, Any]:
    rope, context = reader.spec.rope, reader.spec.context_trained
    found: dict[str, Any] = {}
    if rope.n_dims != reader.spec.head_dim:
        found["partial_rotary_factor"] = rope.n_dims / reader.spec.head_dim
    if rope.scaling == "linear":
        found["rope_scaling"] = {"rope_type": "linear", "factor": rope.factor}
    elif rope.scaling == "llama3":
        factor = float(reader.tensor("rope_freqs.weight").max())
        found["rope_scaling"] = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": _LLAMA3_ORIGINAL,
        }  # fmt: skip
    elif rope.scaling == "yarn":
        found["rope_scaling"] = {
            "rope_type": "yarn", "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context or context,
            "attention_factor": variant.ropes[0].magnitude,
        }  # fmt: skip
    elif rope.scaling == "longrope":
        original = rope.original_context or context
        found["original_max_position_embeddings"] = original
        found["rope_scaling"] = {
            "rope_type": "longrope",
            "factor": context / original,
            "long_factor": _numbers(reader, "rope_factors_long.weight"),
            "short_factor": _numbers(reader, "rope_factors_short.weight"),
            "original_max_position_embeddings": original,
            "attention_factor": variant.ropes[0].magnitude,
        }
    return found


def _numbers(reader: TensorReader, name: str) -> list[float]:
    return [float(x) for x in reader.tensor(name)]


def _windows(model: ModelSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"sliding_window": model.sliding_window}
    if model.architecture == "gemma3":
        found["sliding_window_pattern"] = 6
    if model.architecture in ("qwen2", "qwen3"):
        found["use_sliding_window"] = False
    if model.architecture == "llama":
        del found["sliding_window"]
    return found


def _gemma(model: ModelSpec, variant: Variant) -> dict[str, Any]:
    found: dict[str, Any] = {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(variant.attention_scale**-2),
        "attn_logit_softcapping": variant.attention_softcap or None,
        "final_logit_softcapping": variant.logit_softcap or None,
    }
    if model.architecture == "gemma3":
        second = variant.ropes[1].frequencies
        found["rope_local_base_freq"] = float(second[1] ** (-model.rope.n_dims / 2))
    return found


def _check(config: dict[str, Any], reader: TensorReader) -> None:
    """Read it as any checkpoint's, and compare; raises Unsupported where something got lost."""
    read = checkpoint_config.Config(config)
    for n_ctx in {min(_SHORT, reader.spec.context_trained), reader.spec.context_trained}:
        difference = _difference(checkpoint_config.variant(read, n_ctx), reader.variant(n_ctx))
        if difference:
            raise Unsupported(
                f"{reader.spec.path}: {difference} of this GGUF file cannot be said in a config.json; "
                "quantize the checkpoint that it was made from"
            )


def _difference(found: Variant, wanted: Variant) -> str | None:
    """What is not the same of two variants, in words; None where all is."""
    numbers = (
        "attention_scale",
        "attention_softcap",
        "logit_softcap",
        "token_scale",
        "norm_offset",
    )
    for name in numbers:
        if not np.isclose(getattr(found, name), getattr(wanted, name), rtol=1e-4):
            return name.replace("_", " ")
    if found.windows != wanted.windows:
        return "the sliding windows"
    if found.activation != wanted.activation:
        return "the activation"
    pairs = zip(_per_layer(found), _per_layer(wanted), strict=True)
    if not all(_same_rotation(a, b) for a, b in pairs):
        return "the rotation"
    return None


def _per_layer(variant: Variant) -> list[RopeTable]:
    return [variant.ropes[i] for i in variant.rope_of]


def _same_rotation(a: RopeTable, b: RopeTable) -> bool:
    if a.frequencies.shape != b.frequencies.shape:
        return False
    same = np.allclose(a.frequencies, b.frequencies, rtol=1e-4)
    return bool(same and np.isclose(a.magnitude, b.magnitude, rtol=1e-4))
