"""A checkpoint in Hugging Face's layout: config.json, safetensors files, tokenizer files; its ModelSpec and tensors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights import checkpoint_config
from hearth_backends.weights.checkpoint_config import Config
from hearth_backends.weights.json_file import read_table
from hearth_backends.weights.quantization_config import scheme_of
from hearth_backends.weights.quantized_matrix import QuantizedMatrix, collect
from hearth_backends.weights.reader import Blocks, Channels, Floats8, Groups
from hearth_backends.weights.safetensors_file import Listed, SafetensorsFile
from hearth_backends.weights.spec import ModelSpec, TensorInfo
from hearth_backends.weights.variant import Variant

SAMPLE_BYTES = 16 * 1024
"""From the beginning and from the end of every tensor, as much as this goes into the digest."""

F32 = NDArray[np.float32]

_LAYER = re.compile(r"model\.layers\.(\d{1,6})\.")
_PREFIXES = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
"""Of text models inside models that see: their tensors' names, and the names they have alone."""
_NOT_TEXT = (
    "vision_tower.",
    "model.vision_tower.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
)


class Checkpoint:
    """A TensorReader over a folder; files stay mapped as long as it lives."""

    def __init__(self, folder: str | Path) -> None:
        """Read config and headers; raises ModelFileError and Unsupported, naming the folder or file."""
        self.path = Path(folder)
        try:
            self._config = Config(read_table(self.path / "config.json"))
            self._files = [SafetensorsFile(path) for path in _weight_files(self.path)]
            self._held: Mapping[str, tuple[SafetensorsFile, Listed]] = dict(_held(self._files))
            self._quantized: Mapping[str, QuantizedMatrix] = {}
            scheme = scheme_of(self._config.table("quantization_config"))
            if scheme is not None:
                self._held, self._quantized = collect(self._held, scheme)
            self.spec = self._describe()
        except (ModelFileError, Unsupported) as error:
            if str(self.path) in str(error):
                raise
            raise type(error)(f"{self.path}: {error}") from error

    def variant(self, n_ctx: int) -> Variant:
        """See TensorReader."""
        return checkpoint_config.variant(self._config, n_ctx)

    def tensor(self, name: str) -> F32:
        """See TensorReader."""
        if name in self._quantized:
            return self._quantized[name].read()
        file, listed = self._find(name)
        return file.tensor(listed.name)

    def rows(self, name: str, indices: NDArray[np.int32]) -> F32:
        """See TensorReader."""
        if name in self._quantized:
            return self._quantized[name].read(indices)
        file, listed = self._find(name)
        return file.tensor(listed.name, indices)

    def blocks(self, name: str) -> Blocks | None:
        """See TensorReader: nothing here is kept in GGUF's blocks."""
        return None

    def groups(self, name: str) -> Groups | None:
        """See TensorReader."""
        matrix = self._quantized.get(name)
        return None if matrix is None else matrix.groups()

    def channels(self, name: str) -> Channels | None:
        """See TensorReader."""
        matrix = self._quantized.get(name)
        return None if matrix is None else matrix.channels()

    def floats8(self, name: str) -> Floats8 | None:
        """See TensorReader."""
        matrix = self._quantized.get(name)
        return None if matrix is None else matrix.floats8()

    def _find(self, name: str) -> tuple[SafetensorsFile, Listed]:
        try:
            return self._held[name]
        except KeyError:
            raise ModelFileError(f"{self.path}: there is no tensor {name}") from None

    def _describe(self) -> ModelSpec:
        config, tensors = self._config, _tensor_infos(self._held, self._quantized)
        if "model.embed_tokens.weight" not in tensors:
            raise ModelFileError("there is no tensor model.embed_tokens.weight")
        if "lm_head.weight" in tensors and config.get("tie_word_embeddings", bool):
            del tensors["lm_head.weight"]  # the embedding once more
        ends = Config(_json_or_nothing(self.path / "generation_config.json")).ids("eos_token_id")
        eos = config.ids("eos_token_id")
        seen = checkpoint_config.windows(config)
        largest = max(tensors.values(), key=lambda tensor: tensor.n_bytes)
        schemes = [matrix.scheme for matrix in self._quantized.values()]
        return ModelSpec(
            path=self.path,
            format="safetensors",
            digest=_digest(self.path, self._files),
            name=self.path.name,
            architecture=config.architecture,
            n_layers=config.n_layers,
            d_model=config.size("hidden_size"),
            n_heads=config.n_heads,
            n_kv_heads=config.size("num_key_value_heads", config.n_heads),
            head_dim=config.head_dim,
            d_ff=config.size("intermediate_size"),
            n_vocab=tensors["model.embed_tokens.weight"].shape[0],
            context_trained=config.size("max_position_embeddings"),
            norm_eps=config.get("rms_norm_eps", float) or 1e-6,
            rope=checkpoint_config.rope_spec(config),
            tied_embeddings="lm_head.weight" not in tensors,
            quantization=schemes[0].dtype if schemes else largest.dtype,
            file_bytes=sum(file.n_bytes for file in self._files),
            n_parameters=sum(int(np.prod(t.shape, dtype=np.int64)) for t in tensors.values()),
            chat_template=None,
            bos_id=min(config.ids("bos_token_id"), default=None),
            eos_id=min(eos, default=None),
            end_ids=eos | ends,
            add_bos=False,
            tensors=tensors,
            sliding_window=max(seen, default=0) or None,
        )


def _json_or_nothing(path: Path) -> dict[str, Any]:
    return read_table(path) if path.exists() else {}


def _weight_files(folder: Path) -> list[Path]:
    """The one file, or the shards that the index names."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    shards = read_table(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelFileError(f"{index}: it names no files")
    names = sorted(set(map(str, shards.values())))
    if any(Path(name).name != name for name in names):
        raise ModelFileError(f"{index}: it names a file outside of its folder")
    return [folder / name for name in names]


def _held(files: list[SafetensorsFile]) -> Iterator[tuple[str, tuple[SafetensorsFile, Listed]]]:
    """Tensors of the text model by canonical name."""
    seen: set[str] = set()
    for file in files:
        for listed in file.tensors.values():
            if listed.name.startswith(_NOT_TEXT):
                continue
            name = _canonical(listed.name)
            if name in seen:
                raise ModelFileError(f"two tensors are called {name}")
            seen.add(name)
            yield name, (file, listed)


def _canonical(name: str) -> str:
    for prefix, instead in _PREFIXES:
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return name


def _tensor_infos(
    held: Mapping[str, tuple[SafetensorsFile, Listed]], quantized: Mapping[str, QuantizedMatrix]
) -> dict[str, TensorInfo]:
    infos = {}
    for name, (_, listed) in held.items():
        n_bytes = listed.end - listed.begin
        infos[name] = TensorInfo(
            name, listed.name, listed.shape, listed.dtype, n_bytes, _layer(name)
        )
    for name, matrix in quantized.items():
        (_, words), *_ = matrix.pieces.values()
        infos[name] = TensorInfo(
            name, words.name, matrix.shape, matrix.scheme.dtype, matrix.n_bytes, _layer(name)
        )
    return infos


def _layer(name: str) -> int | None:
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def _digest(folder: Path, files: list[SafetensorsFile]) -> str:
    """A name for these weights: SHA-256 over config, sizes, headers and samples of every tensor."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in files:
        digest.update(f" {file.path.name} {file.n_bytes} ".encode())
        digest.update(file.header)
        for listed in file.tensors.values():
            digest.update(
                file.piece(listed.begin, min(listed.end, listed.begin + SAMPLE_BYTES)).data
            )
            digest.update(file.piece(max(listed.begin, listed.end - SAMPLE_BYTES), listed.end).data)
    return digest.hexdigest()


def with_tokens(
    spec: ModelSpec, *, chat_template: str | None, add_bos: bool, end_ids: frozenset[int]
) -> ModelSpec:
    """The same model with what its tokenizer knows."""
    return replace(
        spec, chat_template=chat_template, add_bos=add_bos, end_ids=spec.end_ids | end_ids
    )
