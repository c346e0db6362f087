"""An ONNX file made elsewhere: what it takes and gives, and whether all of its data are there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hearth_backends.errors import ModelFileError

_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "INT8", "uint8": "INT8"}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a graph."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]  # None: any size


class Reader(NamedTuple):
    """A node that takes an input of the graph as it is."""

    operator: str
    switches: frozenset[str]  # names of its integer attributes that are 1


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The graph's signature, and its files."""

    path: Path
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    data_files: tuple[Path, ...]  # beside the file itself
    n_bytes: int  # of all of them
    n_parameters: int
    quantization: str  # the prevailing type of its tensors
    readers: Mapping[str, frozenset[Reader]] = field(default_factory=dict)  # of each input
    operators: frozenset[str] = frozenset()  # of all its nodes, those of inner graphs too


@dataclass(slots=True)
class _Tally:
    """Tensors as they are seen."""

    ends: dict[Path, int] = field(default_factory=dict)  # of what belongs to a file
    n_elements: int = 0
    bytes_of: dict[str, int] = field(default_factory=dict)  # by type


def read_onnx(path: Path) -> OnnxFile:
    """Parse the file, and check its external data; raises ModelFileError, naming file and bytes."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        n_bytes = path.stat().st_size
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file") from None
    except (OSError, DecodeError) as error:
        raise ModelFileError(f"{path}: truncated or no ONNX file: {error}") from error
    graph = model.graph
    if not graph.node:
        raise ModelFileError(f"{path}: truncated or no ONNX file: {n_bytes} bytes without a graph")
    tally = _Tally()
    for tensor in _tensors(graph):
        _count(tally, tensor, path)
    for file, end in tally.ends.items():
        _check_size(file, end)
    held = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: _port(value) for value in graph.input if value.name not in held}
    nodes = list(_nodes(graph))
    kinds = tally.bytes_of
    return OnnxFile(
        path=path,
        inputs=inputs,
        outputs={value.name: _port(value) for value in graph.output},
        data_files=tuple(sorted(tally.ends)),
        n_bytes=n_bytes + sum(file.stat().st_size for file in tally.ends),
        n_parameters=tally.n_elements,
        quantization=max(kinds, key=lambda kind: kinds[kind]) if kinds else "F32",
        readers=_readers(nodes, inputs),
        operators=frozenset(node.op_type for node in nodes),
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of inner graphs too: they may read what the outer graph is given."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def _readers(nodes: list[Any], inputs: Mapping[str, Port]) -> dict[str, frozenset[Reader]]:
    found: dict[str, set[Reader]] = {name: set() for name in inputs}
    for node in nodes:
        taken = found.keys() & set(node.input)
        if taken:
            switches = frozenset(a.name for a in node.attribute if a.HasField("i") and a.i == 1)
            for name in taken:
                found[name].add(Reader(node.op_type, switches))
    return {name: frozenset(readers) for name, readers in found.items()}


def _tensors(graph: Any) -> Iterator[Any]:
    """Initializers and constants, those of inner graphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in [attribute.g, *attribute.graphs]:
                yield from _tensors(inner)


def _count(tally: _Tally, tensor: Any, path: Path) -> None:
    from onnx import TensorProto, helper

    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    n_elements = math.prod(tensor.dims)
    size = n_elements * dtype.itemsize
    kind = _TYPES.get(dtype.name)
    if kind is not None:
        tally.n_elements += n_elements
        tally.bytes_of[kind] = tally.bytes_of.get(kind, 0) + size
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    told = {entry.key: entry.value for entry in tensor.external_data}
    place = Path(told.get("location", ""))
    if not told.get("location") or place.is_absolute() or ".." in place.parts:
        raise ModelFileError(
            f"{path}: the data of {tensor.name} lie outside of its folder: {place}"
        )
    try:
        begin, length = int(told.get("offset", 0)), int(told.get("length", size))
    except ValueError:
        raise ModelFileError(
            f"{path}: nobody can say where the data of {tensor.name} lie"
        ) from None
    file = path.parent / place
    tally.ends[file] = max(tally.ends.get(file, 0), begin + length)


def _check_size(file: Path, end: int) -> None:
    try:
        n_bytes = file.stat().st_size
    except OSError:
        raise ModelFileError(
            f"{file}: there is no such file, and {end} bytes of the model lie in it"
        ) from None
    if n_bytes < end:
        raise ModelFileError(f"{file}: truncated: it has {n_bytes} bytes, and {end} belong")


def _port(value: Any) -> Port:
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    return Port(np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type or 1)), shape)
