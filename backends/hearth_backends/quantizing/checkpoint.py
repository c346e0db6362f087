"""Quantized checkpoints: from a model in any format to a folder in Hugging Face's layout.

Weights are in the formats of compressed-tensors. One tensor is in memory at a time, large tables of
embeddings some rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import LoadedModel, Progress
from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.quantizing import rounding
from hearth_backends.quantizing.config_json import config_of
from hearth_backends.quantizing.folder import appearing
from hearth_backends.quantizing.gptq import Upper, factor, gptq_groups
from hearth_backends.quantizing.plan import Plan, Target, group_of, kept_type, plan
from hearth_backends.quantizing.shards import SHARD_BYTES, Piece, write_shards
from hearth_backends.quantizing.tokenizer_files import check_same, copied_files, tokenizer_files
from hearth_backends.weights.checkpoint_tokenizer import CheckpointTokenizer
from hearth_backends.weights.json_file import read_table
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.reader import F32, TensorReader
from hearth_backends.weights.spec import TensorInfo

CHUNK_ELEMENTS = 1 << 21
"""Rows are rounded so many numbers at a time: what is tried for each takes several copies."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was made."""

    plan: Plan
    n_bytes: int  # of all files
    source_bytes: int


def write_quantized(
    model: LoadedModel,
    target: Target,
    out: Path,
    progress: Progress,
    *,
    replace: bool = False,
    layers: Iterable[Mapping[str, F32]] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write the folder `out`, whole or not at all.

    With `layers`, which give what the matrices of each layer in turn are multiplied with, 4-bit groups
    are made by GPTQ; otherwise each number goes to the nearest of its group.

    Raises Unsupported, ModelFileError, and OutOfMemory where the disk is full.
    """
    spec = model.spec
    if spec.encoding.pooling is not None or spec.encoding.ranks or spec.state is not None:
        raise Unsupported(f"{spec.name}: models that generate from keys and values are quantized")
    made = plan(spec, target)
    reader = open_reader(spec)
    if spec.path is not None and out.resolve() == spec.path.resolve():
        raise ModelFileError(f"{out} is the model itself; name another folder")
    n_bytes = sum(entry.n_bytes for entry in made.entries())
    with appearing(out, n_bytes, replace=replace) as folder:
        files = _files(model, reader, made)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        if spec.format == "gguf":
            _check_tokenizer(folder, model)
        write_shards(folder, made.entries(), _pieces(reader, made, layers, progress), shard_bytes)
        n_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return Written(made, n_bytes, spec.file_bytes)


def _files(model: LoadedModel, reader: TensorReader, made: Plan) -> dict[str, bytes]:
    """All but the weights."""
    path = model.spec.path
    if path is None or model.spec.format != "safetensors":
        config, files = config_of(reader), tokenizer_files(model)
    else:
        config, files = read_table(path / "config.json"), copied_files(path)
    config["quantization_config"] = made.quantization_config()
    return {**files, "config.json": json.dumps(config, indent=1).encode()}


def _check_tokenizer(folder: Path, model: LoadedModel) -> None:
    spec = model.spec
    made = CheckpointTokenizer(
        folder / "tokenizer.json",
        n_vocab=spec.n_vocab,
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
        end_ids=spec.end_ids,
    )
    check_same(made, model.tokenizer)


def _pieces(
    reader: TensorReader, made: Plan, layers: Iterable[Mapping[str, F32]] | None, progress: Progress
) -> Iterator[Piece]:
    """Tensors as they are made, in the order of the plan's entries."""
    seen = _Seen(layers)
    total = max(1, sum(_n_elements(tensor) for tensor in made.tensors))
    done = 0
    for tensor in made.tensors:
        names = [entry.name for entry in made.entries_of(tensor)]
        if tensor.name in made.quantized:
            parts = _quantized(reader.tensor(tensor.name), made.target, seen.factor_of(tensor))
            for name, data in zip(names, parts, strict=True):
                yield Piece(name, data)
        else:
            for rows in _rows(reader, tensor):
                yield Piece(names[0], _stored(rows, kept_type(tensor), tensor.name))
        done += _n_elements(tensor)
        progress(done / total)


class _Seen:
    """Factors of what matrices are multiplied with, one layer's at a time; matrices of one input share them."""

    def __init__(self, layers: Iterable[Mapping[str, F32]] | None) -> None:
        self._layers = None if layers is None else iter(layers)
        self._layer = -1
        self._inputs: Mapping[str, F32] = {}
        self._factors: dict[int, Upper] = {}  # by the identity of inputs that are kept

    def factor_of(self, tensor: TensorInfo) -> Upper | None:
        """Of a matrix; layers come in order. None where nobody looks."""
        if self._layers is None or tensor.layer is None:
            return None
        while self._layer < tensor.layer:
            self._inputs, self._factors = next(self._layers), {}
            self._layer += 1
        inputs = self._inputs[tensor.name]
        if id(inputs) not in self._factors:
            self._factors[id(inputs)] = factor(inputs)
        return self._factors[id(inputs)]


def _n_elements(tensor: TensorInfo) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))


def _rows(reader: TensorReader, tensor: TensorInfo) -> Iterator[F32]:
    """Of what is kept: tables of tokens by rows, everything else whole."""
    if tensor.layer is not None or len(tensor.shape) != 2:
        yield reader.tensor(tensor.name)
        return
    n_rows, n_in = tensor.shape
    step = max(1, CHUNK_ELEMENTS // n_in)
    for at in range(0, n_rows, step):
        yield reader.rows(tensor.name, np.arange(at, min(at + step, n_rows), dtype=np.int32))


def _stored(values: F32, dtype: str, name: str) -> NDArray[Any]:
    """Numbers in a type of safetensors, exact where they came from it."""
    if dtype == "F32":
        return values
    if dtype == "BF16":
        return bfloat16(values)
    if float(np.abs(values).max(initial=0.0)) > rounding.LARGEST_HALF:
        raise Unsupported(f"{name} holds numbers that float16 does not have")
    return values.astype("<f2")


def bfloat16(values: F32) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, rounded to the even of two."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")


def _quantized(matrix: F32, target: Target, upper: Upper | None) -> list[NDArray[Any]]:
    """The pieces of one matrix, as `Plan.entries_of` lists them."""
    step = max(8, CHUNK_ELEMENTS // matrix.shape[1] // 8 * 8)  # zero points go eight to a word
    chunks = [matrix[at : at + step] for at in range(0, len(matrix), step)]
    if target.kind != "int4":
        make = rounding.int8_channels if target.kind == "int8" else rounding.fp8_channels
        made = [make(rows) for rows in chunks]
        return [
            np.concatenate([integers for integers, _ in made]),
            np.concatenate([scales for _, scales in made]).astype("<f2"),
        ]
    group, symmetric = group_of(target), target.symmetric
    if upper is None:
        grouped = [rounding.int4_groups(rows, group, symmetric=symmetric) for rows in chunks]
    else:
        grouped = [gptq_groups(matrix, group, upper, symmetric=symmetric)]
    pieces: list[NDArray[Any]] = [
        np.concatenate([rounding.words(found.integers) for found in grouped]),
        np.concatenate([found.scales for found in grouped]).astype("<f2"),
        np.array(matrix.shape, "<i8"),
    ]
    zeros = [found.zeros for found in grouped if found.zeros is not None]
    if zeros:
        columns = [rounding.words(np.ascontiguousarray(found.T)).T for found in zeros]
        pieces.append(np.concatenate(columns))
    return pieces
