"""Names: which architectures are known, and what their GGUF tensors are called elsewhere.

Canonical names are those of Hugging Face checkpoints. GGUF stores some tensors changed; a Layout
says how, so that a reader can undo it (source: llama.cpp's convert_hf_to_gguf).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gguf.constants import MODEL_ARCH_NAMES


@dataclass(frozen=True, slots=True)
class Layout:
    """How an architecture's GGUF tensors differ from the checkpoint's."""

    interleaved_rope: bool = False  # rows of q and k lie in pairs, not in halves
    norm_plus_one: bool = False  # norms are stored with one added


CANONICAL = {
    "llama": Layout(interleaved_rope=True),  # Llama, Mistral, SmolLM
    "qwen2": Layout(),
    "qwen3": Layout(),
    "gemma": Layout(norm_plus_one=True),
    "gemma2": Layout(norm_plus_one=True),
    "gemma3": Layout(norm_plus_one=True),
    "phi3": Layout(),
}
"""Architectures whose tensors are known by name, shape and order: any backend may run these.

Others are known to llama.cpp alone: their tensors are given as stored.
"""

NOT_DECODERS = frozenset(
    {
        "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
        "jina-bert-v3", "eurobert", "t5encoder", "gemma-embedding", "llama-embed",
        "clip", "mmproj", "wavtokenizer-dec", "eagle3", "dflash", "gemma4-assistant",
    }
)  # fmt: skip
"""Encoders, projectors and drafting heads: files in GGUF that continue no text by themselves."""
ENCODERS = frozenset(
    {
        "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
        "jina-bert-v3", "eurobert", "gemma-embedding", "llama-embed",
    }
)  # fmt: skip
"""Of those, the ones that turn texts into vectors, and do in one pass over all tokens."""

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_2_AND_3 = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_OVERRIDES = {
    "gemma2": _GEMMA_2_AND_3,
    "gemma3": _GEMMA_2_AND_3,
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}
_STORED = re.compile(r"(?:blk\.(?P<layer>\d{1,6})\.)?(?P<stem>.+?)(?P<suffix>\.(?:weight|bias))?")


def is_known(architecture: str) -> bool:
    """Whether some backend may run it."""
    return architecture in MODEL_ARCH_NAMES.values() or architecture in NOT_DECODERS


def canonical_name(architecture: str, stored: str) -> tuple[str, int | None]:
    """The canonical name of a stored tensor, and its layer (None: outside the layers).

    A tensor that has no name elsewhere keeps the stored one, below `model.layers.N` where it has a layer.
    """
    match = _STORED.fullmatch(stored)
    if match is None:
        return stored, None
    stem, suffix = match["stem"], match["suffix"] or ""
    if match["layer"] is None:
        return (_OUTER[stem] + suffix if stem in _OUTER else stored), None
    layer = int(match["layer"])
    inner = _OVERRIDES.get(architecture, {}).get(stem) or _INNER.get(stem, stem)
    return f"model.layers.{layer}.{inner}{suffix}", layer
