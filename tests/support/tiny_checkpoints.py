"""Tiny checkpoints with random weights, one for each architecture, made and judged by transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_VOCAB = 259

_COMMON: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_GEMMA = {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama 3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama heads of 20": ("llama", {"head_dim": 20, "attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {}),
    "qwen2 yarn": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {**_GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("gemma3_text", {**_GEMMA, "num_hidden_layers": 7}),
    "phi3": ("phi3", {"sliding_window": 8}),
    "phi3 longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10000.0,
                "short_factor": [1.0 + 0.1 * i for i in range(8)],
                "long_factor": [1.0 + 0.5 * i for i in range(8)],
                "original_max_position_embeddings": 64, "factor": 8.0,
            },
        },
    ),
}  # fmt: skip
"""A model type and what its configuration says beside what all say."""


def make_checkpoint(
    folder: Path, name: str, *, dtype: str = "float32", shards: bool = False
) -> Any:
    """Save a random model; returns what transformers makes of it, in float32."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM

    kind, fields = ARCHITECTURES[name]
    config = transformers.AutoConfig.for_model(kind, **{**_COMMON, **fields})
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name or parameter_name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="40KB" if shards else "1GB")
    return auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def reference_logits(model: Any, tokens: Sequence[int]) -> NDArray[np.float32]:
    """[n, vocabulary] of the whole text at once."""
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def edit_config(folder: Path, **fields: Any) -> None:
    """Change config.json; None takes a field out."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
