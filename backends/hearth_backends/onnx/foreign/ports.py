"""Ports: how the graph of a decoder made elsewhere is fed, and what is read of it; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hearth_backends.errors import Unsupported
from hearth_backends.weights.decoder_folder import keeps_rows
from hearth_backends.weights.decoder_names import DecoderNames, numbered
from hearth_backends.weights.onnx_file import OnnxFile, Port

_INTEGERS = (np.dtype(np.int64), np.dtype(np.int32))
_FLAGS = (np.dtype(np.bool_),)
_LOGITS = (np.dtype(np.float32), np.dtype(np.float16))
_ACROSS_ROWS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators whose result for one row depends on the other rows of a run."""


@dataclass(frozen=True, slots=True)
class Fed:
    """An input that is made for every run."""

    name: str
    dtype: np.dtype[Any]
    rank: int


@dataclass(frozen=True, slots=True)
class LayerPorts:
    """Keys and values of one layer: what goes in, and what comes out."""

    past: tuple[str, str]
    present: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ports:
    """Of one graph."""

    input_ids: Fed
    attention_mask: Fed | None
    position_ids: Fed | None
    use_cache_branch: Fed | None
    last_position: Fed | None
    lengths: tuple[Fed, ...]  # all that are told how long the longest sequence is
    layers: tuple[LayerPorts, ...]
    n_kv_heads: int
    head_dim: int
    kv_dtype: np.dtype[Any]
    logits: str
    logits_dtype: np.dtype[Any]
    n_vocab: int
    keeps_rows: bool  # a token's keys go to its own place in a row; else after all that came in
    alone: bool  # sequences must not share a run


def find_ports(file: OnnxFile, names: DecoderNames, *, n_vocab: int, head_dim: int) -> Ports:
    """How to feed a graph; raises Unsupported, naming what nobody knows."""
    layers = _layers(file, names)
    _refuse_unknown(file, names, layers)
    cache = _cache(file, layers)
    logits = _logits(file, names)
    ids = _fed(file, names.input_ids, _INTEGERS, 2)
    if ids is None:
        raise Unsupported(f"{file.path}: it has no {names.input_ids}: {_listed(file.inputs)}")
    lengths = [_fed(file, name, _INTEGERS, None) for name in (names.total_length, names.current_length)]  # fmt: skip
    shape = file.inputs[ids.name].shape
    if shape[1] is not None:
        raise Unsupported(f"{file.path}: its {ids.name} has the fixed length {shape[1]}")
    rows = keeps_rows(file, names)
    return Ports(
        input_ids=ids,
        attention_mask=_fed(file, names.attention_mask, (*_INTEGERS, *_FLAGS), 2),
        position_ids=_fed(file, names.position_ids, _INTEGERS, 2),
        use_cache_branch=_fed(file, names.use_cache_branch, _FLAGS, 1),
        last_position=_fed(file, names.last_position, _INTEGERS, None),
        lengths=tuple(fed for fed in lengths if fed is not None),
        layers=layers,
        n_kv_heads=cache.shape[1] or 0,
        head_dim=cache.shape[3] or head_dim,
        kv_dtype=cache.dtype,
        logits=names.logits,
        logits_dtype=logits.dtype,
        n_vocab=logits.shape[-1] or n_vocab,
        keeps_rows=rows,
        # A graph that chooses (by the longest sequence) between two rotations is one for one length.
        alone=shape[0] == 1 or not _ACROSS_ROWS.isdisjoint(file.operators) or (rows and "If" in file.operators),
    )  # fmt: skip


def _layers(file: OnnxFile, names: DecoderNames) -> tuple[LayerPorts, ...]:
    pasts, presents = (names.past_keys, names.past_values), (names.present_keys, names.present_values)  # fmt: skip
    layers = tuple(
        LayerPorts(
            (numbered(pasts[0], i), numbered(pasts[1], i)),
            (numbered(presents[0], i), numbered(presents[1], i)),
        )
        for i in names.layers(file.inputs)
    )
    if not layers:
        raise Unsupported(
            f"{file.path}: none of its inputs are keys and values ({pasts[0]}), without which every token would "
            f"be computed again: {_listed(file.inputs)}"
        )
    for layer in layers:
        lacking = [name for name in layer.past if name not in file.inputs]
        lacking += [name for name in layer.present if name not in file.outputs]
        if lacking:
            raise Unsupported(f"{file.path}: it lacks {', '.join(lacking)}")
    return layers


def _refuse_unknown(file: OnnxFile, names: DecoderNames, layers: Iterable[LayerPorts]) -> None:
    known = {*names.fed, *(name for layer in layers for name in layer.past)}
    unknown = [name for name in file.inputs if name not in known]
    if unknown:
        raise Unsupported(
            f"{file.path}: it asks for {_listed(unknown)}, and a decoder is given {', '.join(names.fed)} and "
            f"{names.past_keys}, {names.past_values}"
        )


def _cache(file: OnnxFile, layers: Iterable[LayerPorts]) -> Port:
    """The port that stands for all keys and values, which must be alike."""
    ports = [file.inputs[name] for layer in layers for name in layer.past]
    kinds = {(len(port.shape), port.dtype, port.shape[1:2], port.shape[3:]) for port in ports}
    first = ports[0]
    if len(kinds) > 1:
        shapes = sorted({_shown(port) for port in ports})
        raise Unsupported(f"{file.path}: its keys and values differ: {', '.join(shapes)}")
    if len(first.shape) != 4 or first.shape[1] is None or first.shape[2] is not None:
        raise Unsupported(
            f"{file.path}: keys and values {_shown(first)}, which should be [?, heads, ?, head_dim]"
        )
    if first.dtype not in (np.float32, np.float16):
        raise Unsupported(
            f"{file.path}: keys and values of the type {first.dtype}; float32 and float16 are kept"
        )
    return first


def _logits(file: OnnxFile, names: DecoderNames) -> Port:
    port = file.outputs.get(names.logits)
    if port is None or port.dtype not in _LOGITS:
        kind = "" if port is None else f" of the type {port.dtype}"
        raise Unsupported(
            f"{file.path}: it gives no {names.logits}{kind and ' that can be read'}{kind}: "
            f"{_listed(file.outputs)}"
        )
    return port


def _fed(
    file: OnnxFile, name: str, kinds: tuple[np.dtype[Any], ...], rank: int | None
) -> Fed | None:
    """An input of the graph; None where it has none of the name."""
    port = file.inputs.get(name)
    if port is None:
        return None
    if port.dtype not in kinds or (rank is not None and len(port.shape) != rank):
        raise Unsupported(f"{file.path}: it wants {name} as {port.dtype} {_shown(port)}")
    return Fed(name, port.dtype, len(port.shape))


def _shown(port: Port) -> str:
    return f"{port.dtype}[{', '.join('?' if size is None else str(size) for size in port.shape)}]"


def _listed(names: Iterable[str], most: int = 12) -> str:
    """The first of them."""
    found = list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
