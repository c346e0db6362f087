"""Tiny random encoders other than BERT, as GGUF files with a byte-level or a WordPiece vocabulary."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tiny_bert import VOCABULARY, write_vocabulary

Tensors = dict[str, NDArray[np.float32]]

D_MODEL, N_HEADS, D_FF, N_LAYERS, CONTEXT, WINDOW = 64, 4, 128, 6, 256, 16


def write_encoder(path: Path, architecture: str, *, pooling: str = "mean", seed: int = 0) -> Path:
    """A model of "nomic-bert", "jina-bert-v2" or "gemma-embedding"."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny-{architecture}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(N_HEADS)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    if architecture == "gemma-embedding":
        writer.add_head_count_kv(1)
        writer.add_key_length(D_MODEL // N_HEADS)
        writer.add_value_length(D_MODEL // N_HEADS)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_sliding_window(WINDOW)
    else:
        writer.add_layer_norm_eps(1e-12)
    if architecture != "jina-bert-v2":
        writer.add_rope_freq_base(10_000.0)
    write_vocabulary(writer)
    for name, values in _tensors(architecture, seed).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(architecture: str, seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    found: Tensors = {}

    def matrix(name: str, n_out: int, n_in: int) -> None:
        values = random.standard_normal((n_out, n_in)) / np.sqrt(n_in)
        found[f"{name}.weight"] = values.astype(np.float32)

    def vector(name: str, n: int, offset: float) -> None:
        found[name] = (random.standard_normal(n) * 0.1 + offset).astype(np.float32)

    def norm(name: str, n: int = D_MODEL, *, bias: bool = True) -> None:
        vector(f"{name}.weight", n, 1.0)
        if bias:
            vector(f"{name}.bias", n, 0.0)

    is_gemma = architecture == "gemma-embedding"
    matrix("token_embd", len(VOCABULARY), D_MODEL)
    found["token_embd.weight"] *= np.float32(8)
    if is_gemma:
        norm("output_norm", bias=False)
    else:
        matrix("token_types", 2, D_MODEL)
        norm("token_embd_norm")
    for i in range(N_LAYERS):
        layer = f"blk.{i}."
        if is_gemma:
            n_kv = D_MODEL // N_HEADS
            for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
                norm(layer + name, bias=False)
            for name in ("attn_q_norm", "attn_k_norm"):
                norm(layer + name, n_kv, bias=False)
            matrix(layer + "attn_q", D_MODEL, D_MODEL)
            matrix(layer + "attn_k", n_kv, D_MODEL)
            matrix(layer + "attn_v", n_kv, D_MODEL)
        elif architecture == "nomic-bert":
            matrix(layer + "attn_qkv", 3 * D_MODEL, D_MODEL)
        else:
            for part in "qkv":
                matrix(f"{layer}attn_{part}", D_MODEL, D_MODEL)
                vector(f"{layer}attn_{part}.bias", D_MODEL, 0.0)
            vector(f"{layer}attn_output.bias", D_MODEL, 0.0)
            vector(f"{layer}ffn_down.bias", D_MODEL, 0.0)
        if not is_gemma:
            norm(layer + "attn_output_norm")
            norm(layer + "layer_output_norm")
        matrix(layer + "attn_output", D_MODEL, D_MODEL)
        matrix(layer + "ffn_gate", D_FF, D_MODEL)
        matrix(layer + "ffn_up", D_FF, D_MODEL)
        matrix(layer + "ffn_down", D_MODEL, D_FF)
    return found
