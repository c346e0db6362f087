"""LoRA adapters with random weights for GGUF models of plain numbers, and such models with one merged in."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from hearth_backends.weights.gguf_file import GgufFile

RANK, ALPHA = 4, 8.0
ADAPTED = (
    "attn_q.weight",
    "attn_v.weight",
    "ffn_down.weight",
    "token_embd.weight",
    "output.weight",
)


def write_lora(
    path: Path,
    model: Path,
    *,
    seed: int,
    architecture: str | None = None,
    extra_rows: int = 0,
    strength: float = 0.3,
    adapts_tied: bool = False,
    layers: tuple[int, ...] | None = None,
) -> None:
    """An adapter of the `ADAPTED` tensors that the model has, or one that does not fit it.

    `layers`: of these alone.
    """
    file = GgufFile(model)
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture or file.spec.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for tensor in file.header.tensors:
        if not tensor.name.endswith(ADAPTED) or "attn_output" in tensor.name:
            continue
        if layers is not None and not tensor.name.startswith(tuple(f"blk.{i}." for i in layers)):
            continue
        if tensor.name == "token_embd.weight" and file.spec.tied_embeddings and not adapts_tied:
            continue
        n_out, n_in = tensor.shape
        a = random.standard_normal((RANK, n_in + extra_rows), np.float32) / np.sqrt(n_in)
        b = random.standard_normal((n_out, RANK), np.float32) * strength
        if tensor.name == "token_embd.weight":
            a, b = b, np.ascontiguousarray(a.T)
        writer.add_tensor(f"{tensor.name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{tensor.name}.lora_b", b.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_merged(path: Path, model: Path, lora: Path) -> None:
    """The model with the adapter's product added to its float32 weights."""
    path.write_bytes(model.read_bytes())
    tensors = {tensor.name: tensor for tensor in GgufFile(model).header.tensors}
    changes = gguf.GGUFReader(lora)
    pairs = {tensor.name: np.array(tensor.data) for tensor in changes.tensors}
    for name in {name.rpartition(".")[0] for name in pairs}:
        a, b = pairs[f"{name}.lora_a"], pairs[f"{name}.lora_b"]
        product = a @ b.T if name == "token_embd.weight" else b @ a
        tensor = tensors[name]
        weights = np.memmap(path, np.float32, "r+", tensor.offset, tensor.shape)
        weights += np.float32(ALPHA / RANK) * product
        weights.flush()
