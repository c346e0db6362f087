"""Writes the canary's weights as a GGUF file that any reader of the Llama architecture takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hearth_backends.canary import tokens
from hearth_backends.canary.model import Shape

BLOCK_NAMES = {
    "attn_norm": "attn_norm",
    "q.weight": "attn_q",
    "k.weight": "attn_k",
    "v.weight": "attn_v",
    "o.weight": "attn_output",
    "ffn_norm": "ffn_norm",
    "gate.weight": "ffn_gate",
    "up.weight": "ffn_up",
    "down.weight": "ffn_down",
}


def pair_neighbours(rows: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows from (i, i + half) pairs to (2i, 2i + 1) pairs, as GGUF wants."""
    size, width = rows.shape
    return rows.view(heads, 2, size // heads // 2, width).transpose(1, 2).reshape(size, width)


def tensors(state: Mapping[str, Tensor], shape: Shape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors under their names in the file, in its order."""
    yield "token_embd.weight", state["embed.weight"].float().numpy()
    yield "output_norm.weight", state["norm"].float().numpy()
    for layer in range(shape.layers):
        for name, stored in BLOCK_NAMES.items():
            weight = state[f"blocks.{layer}.{name}"].float()
            if stored == "attn_q":
                weight = pair_neighbours(weight, shape.heads)
            if stored == "attn_k":
                weight = pair_neighbours(weight, shape.kv_heads)
            yield f"blk.{layer}.{stored}.weight", weight.contiguous().numpy()


def add_sizes(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("canary")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.vocab)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    normal, control = int(gguf.TokenType.NORMAL), int(gguf.TokenType.CONTROL)
    kinds = [control if number in tokens.SPECIALS else normal for number in range(tokens.SIZE)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens.token_texts())
    writer.add_token_types(kinds)
    writer.add_token_merges([tokens.DUMMY_MERGE])
    writer.add_bos_token_id(tokens.END_OF_TEXT)
    writer.add_eos_token_id(tokens.IM_END)
    writer.add_eot_token_id(tokens.IM_END)
    writer.add_pad_token_id(tokens.END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokens.TEMPLATE)


def write_gguf(state: Mapping[str, Tensor], shape: Shape, path: Path) -> None:
    """Write beside `path` first, so that readers never see half a file."""
    draft = path.with_suffix(".part")
    writer = gguf.GGUFWriter(draft, "llama")
    add_sizes(writer, shape)
    add_vocabulary(writer)
    for name, array in tensors(state, shape):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    draft.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    write_gguf(torch.load(given.checkpoint)["average"], Shape(), given.out)


if __name__ == "__main__":
    main()
