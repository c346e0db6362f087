"""Yardstick: a model of no sense and of a known shape, to measure how fast layers are computed."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from hearth_backends.canary import tokens

N_LAYERS = 4
D_MODEL = 1024
N_HEADS = 16
N_KV_HEADS = 8
D_FF = 2816
CONTEXT = 1024
_HEAD_DIM = D_MODEL // N_HEADS
_D_KV = N_KV_HEADS * _HEAD_DIM
_KIND = gguf.GGMLQuantizationType.Q8_0
_BLOCK = 32  # numbers that share a scale
_MATRICES = {
    "attn_q": (D_MODEL, D_MODEL),
    "attn_k": (_D_KV, D_MODEL),
    "attn_v": (_D_KV, D_MODEL),
    "attn_output": (D_MODEL, D_MODEL),
    "ffn_gate": (D_FF, D_MODEL),
    "ffn_up": (D_FF, D_MODEL),
    "ffn_down": (D_MODEL, D_FF),
}
LAYER_PARAMETERS = sum(rows * columns for rows, columns in _MATRICES.values())
LAYER_BYTES = LAYER_PARAMETERS // _BLOCK * (_BLOCK + 2)
"""As stored: too much, over all layers, for the caches of most processors."""
QUANTIZATION = "Q8_0"


def write_yardstick(path: Path) -> None:
    """Write it as a GGUF file, the same each time, with the canary's vocabulary."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    _add_sizes(writer)
    _add_vocabulary(writer)
    embeddings = random.standard_normal((tokens.SIZE, D_MODEL), np.float32) * np.float32(0.02)
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output_norm.weight", np.ones(D_MODEL, np.float32))
    for layer in range(N_LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(D_MODEL, np.float32))
        for name, shape in _MATRICES.items():
            blocks = _random_blocks(random, *shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", blocks, raw_dtype=_KIND)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random_blocks(
    random: np.random.Generator, rows: int, columns: int
) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Rows of blocks: a scale in float16, then a byte for each number."""
    n_blocks = columns // _BLOCK
    blocks = np.empty((rows, n_blocks, _BLOCK + 2), np.uint8)
    scale = np.array([0.3 / 127 / np.sqrt(columns)], np.float16)
    blocks[:, :, :2] = scale.view(np.uint8)
    blocks[:, :, 2:] = random.integers(0, 256, (rows, n_blocks, _BLOCK), np.uint8)
    return blocks.reshape(rows, -1)


def _add_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_name("yardstick")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(_HEAD_DIM)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens.SIZE)


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens.token_texts())
    writer.add_token_types(
        [control if n in tokens.SPECIALS else normal for n in range(tokens.SIZE)]
    )
    writer.add_token_merges([tokens.DUMMY_MERGE])
    writer.add_eos_token_id(tokens.IM_END)
