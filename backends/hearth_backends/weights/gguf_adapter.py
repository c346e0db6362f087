"""LoRA adapters in GGUF files: read from the header, held against the model; no weights are loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hearth_backends.base import AdapterSpec
from hearth_backends.errors import ModelFileError
from hearth_backends.weights.gguf_file import map_file
from hearth_backends.weights.gguf_header import Header, StoredTensor, parse_header
from hearth_backends.weights.spec import ModelSpec

_A, _B = ".lora_a", ".lora_b"


def open_adapter(path: Path, model: ModelSpec) -> AdapterSpec:
    """Describe an adapter of a model; raises ModelFileError, which names the file, for anything else."""
    try:
        data = map_file(path)
        header = parse_header(data.data)
        _check_kind(header, model)
        n_bytes = _check_tensors(header, model)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return AdapterSpec(path, hashlib.blake2b(data.data, digest_size=16).hexdigest(), n_bytes)


def _check_kind(header: Header, model: ModelSpec) -> None:
    said = {key: entry.value for key, entry in header.metadata.items()}
    if said.get("general.type") != "adapter" or said.get("adapter.type") != "lora":
        raise ModelFileError("it is not a LoRA adapter")
    architecture = said.get("general.architecture")
    if architecture != model.architecture:
        raise ModelFileError(
            f"an adapter of {architecture} models, and {model.name} is of {model.architecture}"
        )


def _check_tensors(header: Header, model: ModelSpec) -> int:
    """Bytes of all tensors, each of which has its place in the model."""
    shapes = {tensor.stored_name: tensor.shape for tensor in model.tensors.values()}
    pairs: dict[str, dict[str, StoredTensor]] = {}
    for tensor in header.tensors:
        stem, kind = tensor.name[: -len(_A)], tensor.name[-len(_A) :]
        if kind in (_A, _B):
            pairs.setdefault(stem, {})[kind] = tensor
        elif not tensor.name.endswith("_norm.weight"):  # those are passed over by llama.cpp too
            raise ModelFileError(f"{tensor.name} is no tensor of a LoRA adapter")
    if not pairs:
        raise ModelFileError("an adapter without tensors")
    for name, pair in pairs.items():
        if name not in shapes:
            raise ModelFileError(f"it adapts {name}, which {model.name} does not have")
        if len(pair) < 2:
            raise ModelFileError(f"of {name} it has one of two tensors")
        if name == "token_embd.weight" and model.tied_embeddings:
            raise ModelFileError(  # llama.cpp aborts
                f"it adapts {name}, and the head of {model.name} is the same tensor"
            )
        _check_pair(name, pair[_A].shape, pair[_B].shape, shapes[name])
    return sum(tensor.n_bytes for pair in pairs.values() for tensor in pair.values())


def _check_pair(
    name: str, a: tuple[int, ...], b: tuple[int, ...], adapted: tuple[int, ...]
) -> None:
    """B A has the shape of what is adapted; of the embedding the two lie the other way round."""
    if min(len(a), len(b), len(adapted)) < 2:
        fits = False
    elif name == "token_embd.weight":
        fits = (a[-2], b[-2]) == adapted and a[-1] == b[-1]
    else:
        fits = (b[-2], a[-1]) == adapted[-2:] and a[-2] == b[-1]
    if not fits:
        raise ModelFileError(f"{name} is {adapted} in the model, and adapted by {b} times {a}")
