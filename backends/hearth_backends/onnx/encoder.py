"""OnnxEncoder: ONNX Runtime as an encoder, over an ONNX file or a graph built from safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Bytes, Progress, Support
from hearth_backends.encoder import Encoder, EncoderSpec, Vectors, check_batch, unit_length
from hearth_backends.errors import BackendError, ModelFileError, StepError, Unsupported
from hearth_backends.onnx import session
from hearth_backends.onnx.encoder_graph import HIDDEN, LOGITS, build_encoder
from hearth_backends.onnx.memory import SESSION_BYTES
from hearth_backends.weights.encoder_config import EncoderConfig
from hearth_backends.weights.encoder_folder import BUILT_TYPES, check_digest, config_of, tensors_of
from hearth_backends.weights.onnx_file import OnnxFile, Port, read_onnx
from hearth_backends.weights.spec import ModelSpec

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""What a graph may ask for."""
_TOKEN_OUTPUTS = (HIDDEN, "token_embeddings", "hidden_states")
_TEXT_OUTPUTS = ("sentence_embedding",)
WASTE = 0.25
"""Of the tokens of a run, what may be filling, that texts of other lengths share it."""
FEW_TOKENS = 8
"""Texts that differ by so much share a run anyway."""

_INTS = (np.dtype(np.int64), np.dtype(np.int32))


@dataclass(frozen=True, slots=True)
class Ports:
    """How a graph is fed, and what is read of it."""

    inputs: Mapping[str, np.dtype[np.int64] | np.dtype[np.int32]]
    output: str
    batch: int | None = None  # texts of every run; None: any number
    length: int | None = None  # tokens of every text; None: any number


def encoder_support(model: ModelSpec, spec: EncoderSpec) -> Support:
    """Whether this backend encodes with the model."""
    if model.format not in ("onnx", "safetensors") or model.encoding.generates:
        return Support(False, "it encodes with ONNX files and with checkpoints of BERT-likes")
    if model.format == "safetensors" and model.architecture not in BUILT_TYPES:
        return Support(False, f"it builds no encoder of the type {model.architecture}")
    if spec.pooling not in ("mean", "cls", "last", "rank"):
        return Support(False, f"pooling {spec.pooling} gives no vector of a text")
    if spec.weight_kind not in ("file", "fp32"):
        return Support(False, "it encodes with weights as the file stores them")
    labels = model.encoding.labels
    if spec.task == "rerank" and len(labels) != 1:
        return Support(
            False,
            f"{model.name} sorts texts into {len(labels)} classes ({', '.join(labels[:5])}); a reranker has "
            "one score",
        )
    return Support(True)


def estimate_encoder_bytes(model: ModelSpec, spec: EncoderSpec) -> Bytes:
    """Weights twice, since ONNX Runtime packs them anew, and the values of the largest run."""
    row = 12 * model.d_model + 2 * model.d_ff + 2 * spec.n_ctx * model.n_heads
    return Bytes(2 * model.file_bytes, 0, 4 * spec.n_rows * row + SESSION_BYTES)


def load_onnx_encoder(model: ModelSpec, spec: EncoderSpec, progress: Progress) -> OnnxEncoder:
    """Load it and encode one text for warmth; raises ModelFileError, Unsupported, OutOfMemory."""
    support = encoder_support(model, spec)
    if not support.ok:
        raise Unsupported(f"backend onnx: {support.reason}")
    config = config_of(model)
    load = _load_built if model.format == "safetensors" else _load_file
    opened, ports = load(model, spec, config)
    encoder = OnnxEncoder(spec, config, opened, ports)
    try:
        encoder.warm_up()
    except BaseException:
        encoder.close()
        raise
    progress(1.0)
    return encoder


def _load_built(
    model: ModelSpec, spec: EncoderSpec, config: EncoderConfig
) -> tuple[session.Session, Ports]:
    config = replace(config, encoding=model.encoding)
    graph, weights = build_encoder(config, tensors_of(model))
    opened = session.Session(graph, weights, session.CPU, spec.threads)
    inputs = {name: _INTS[0] for name in INPUTS if name in opened.inputs}
    return opened, Ports(inputs, LOGITS if config.encoding.ranks else HIDDEN)


def _load_file(
    model: ModelSpec, spec: EncoderSpec, config: EncoderConfig
) -> tuple[session.Session, Ports]:
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    file = read_onnx(model.path)
    check_digest(model, [file.path, *file.data_files])
    ports = find_ports(file, spec, config)
    return session.FileSession(file.path, session.CPU, spec.threads), ports


def find_ports(file: OnnxFile, spec: EncoderSpec, config: EncoderConfig) -> Ports:
    """How to feed a graph made elsewhere; raises Unsupported, naming what nobody knows. Pure."""
    unknown = [name for name in file.inputs if name not in INPUTS]
    if unknown or "input_ids" not in file.inputs:
        raise Unsupported(
            f"{file.path}: it asks for {', '.join(unknown) or ', '.join(file.inputs) or 'nothing'}, and an "
            f"encoder is given {', '.join(INPUTS)}, of which the first must be there"
        )
    odd = [
        f"{name} ({port.dtype})" for name, port in file.inputs.items() if port.dtype not in _INTS
    ]
    if odd:
        raise Unsupported(f"{file.path}: it wants {', '.join(odd)}, which should be integers")
    sizes = {port.shape for port in file.inputs.values()}
    shape = file.inputs["input_ids"].shape
    if len(shape) != 2 or len(sizes) != 1 or shape[0] not in (None, 1):
        raise Unsupported(f"{file.path}: its inputs have the fixed sizes {sorted(map(str, sizes))}")
    output = _output(file, spec, config)
    inputs = {name: port.dtype for name, port in file.inputs.items()}
    return Ports(inputs, output, batch=shape[0], length=shape[1])


def _output(file: OnnxFile, spec: EncoderSpec, config: EncoderConfig) -> str:
    """The one to read: logits to rerank; vectors of tokens, or else what the graph made of them."""
    outputs = file.outputs
    if spec.task == "rerank":
        wanted = [LOGITS] if LOGITS in outputs else list(outputs)[:1]
    else:
        wanted = [name for name in _TOKEN_OUTPUTS if name in outputs]
        wanted = wanted or [name for name, port in outputs.items() if len(port.shape) == 3]
        wholes = [name for name in _TEXT_OUTPUTS if name in outputs]
        if config.later_modules:
            wanted = wholes
        wanted = wanted or (wholes if spec.pooling == config.encoding.pooling else [])
    if not wanted:
        after = f", after {', '.join(config.later_modules)}" if config.later_modules else ""
        raise Unsupported(
            f"{file.path}: none of its outputs is known to be the vectors wanted{after}: "
            f"{', '.join(f'{name} {_shown(port)}' for name, port in outputs.items())}"
        )
    return wanted[0]


def _shown(port: Port) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in port.shape)}]"


def runs_of(
    lengths: Sequence[int], most_tokens: int, *, fills: bool, batch: int | None
) -> list[list[int]]:
    """Which texts are computed together, longest first, each run of at most so many tokens. Pure."""
    runs: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        least = max(0, min((1 - WASTE) * longest, longest - FEW_TOKENS)) if fills else longest
        full = bool(runs) and (
            len(runs[-1]) == batch or (len(runs[-1]) + 1) * longest > most_tokens
        )
        if not runs or full or lengths[i] < least:
            runs.append([])
            longest = lengths[i]
        runs[-1].append(i)
    return runs


class OnnxEncoder(Encoder):
    """One session; texts of about one length are filled up and computed together."""

    def __init__(
        self, spec: EncoderSpec, config: EncoderConfig, opened: session.Session, ports: Ports
    ) -> None:
        """Owns the session from now on; of use after `warm_up`."""
        self.spec = spec
        self.dim = 1
        self._config = config
        self._session = opened
        self._ports = ports

    def warm_up(self) -> None:
        """Encode one text, and learn from it how long a vector is; raises Unsupported, BackendError."""
        tokens = [1 % self._config.n_vocab] * min(2, self.spec.n_ctx)
        found = self._compute([tokens], [None])
        if found.ndim != 2 or len(found) != 1:
            raise Unsupported(f"its output {self._ports.output} has the shape {found.shape}")
        if self.spec.task == "rerank" and found.shape[1] != 1:
            raise Unsupported(f"its head gives {found.shape[1]} numbers; a reranker has one score")
        if not np.isfinite(found).all():
            raise BackendError("what comes out of the model is not a number")
        self.dim = found.shape[1]

    def encode(
        self, token_lists: Sequence[Sequence[int]], seconds: Sequence[int | None] = ()
    ) -> Vectors:
        """See Encoder."""
        lengths = check_batch(self.spec, token_lists, self._config.n_vocab)
        seconds = seconds or [None] * len(lengths)
        found = np.empty((len(lengths), self.dim), np.float32)
        fills = "attention_mask" in self._ports.inputs
        for run in runs_of(lengths, self.spec.n_rows, fills=fills, batch=self._ports.batch):
            found[run] = self._compute([token_lists[i] for i in run], [seconds[i] for i in run])
        if not np.isfinite(found).all():
            raise StepError("a vector is not finite")
        if self.spec.task == "rerank":
            return (1 / (1 + np.exp(-found.astype(np.float64)))).astype(np.float32)
        return unit_length(found)

    def close(self) -> None:
        """See Encoder."""
        self._session.close()

    def _compute(
        self, token_lists: Sequence[Sequence[int]], seconds: Sequence[int | None]
    ) -> Vectors:
        """[n, dim] of texts in one run."""
        lengths = np.array([len(tokens) for tokens in token_lists])
        width = self._ports.length or int(lengths.max())
        if width < lengths.max() or (
            width > lengths.min() and "attention_mask" not in self._ports.inputs
        ):
            raise BackendError(f"the graph takes texts of {width} tokens and nothing else")
        feeds = self._feeds(token_lists, seconds, lengths, width)
        try:
            out = self._session.compute(feeds, self._ports.output)
        except (*session.RUN_ERRORS, MemoryError) as error:
            raise StepError(f"ONNX Runtime computed no vectors: {error}") from error
        return _pooled(np.asarray(out, np.float32), lengths, self.spec.pooling)

    def _feeds(
        self,
        token_lists: Sequence[Sequence[int]],
        seconds: Sequence[int | None],
        lengths: NDArray[np.int64],
        width: int,
    ) -> dict[str, session.Array]:
        columns = np.arange(width)
        is_text = columns < lengths[:, None]
        ids = np.full(is_text.shape, self._config.pad_id)
        ids[is_text] = np.concatenate([np.asarray(tokens) for tokens in token_lists])
        begins = np.array([width if second is None else second for second in seconds])
        known_types = self._config.n_types > 1
        first = self._config.first_position
        values = {
            "input_ids": ids,
            "attention_mask": is_text,
            "token_type_ids": is_text & (columns >= begins[:, None]) & known_types,
            "position_ids": np.where(is_text, columns + first, 0),
        }
        return {
            name: np.ascontiguousarray(values[name], dtype)
            for name, dtype in self._ports.inputs.items()
        }


def _pooled(out: Vectors, lengths: NDArray[np.int64], pooling: str) -> Vectors:
    """[n, dim] from vectors of tokens [n, m, dim]; what the graph has pooled stays."""
    if out.ndim != 3:
        return out
    if pooling == "cls":
        return out[:, 0]
    if pooling == "last":
        return out[np.arange(len(out)), lengths - 1]
    is_text = np.arange(out.shape[1]) < lengths[:, None]
    # Filling is multiplied out, whatever it is: not even by its infinities.
    summed = np.where(is_text[:, :, None], out, 0).sum(axis=1, dtype=np.float64)
    mean: Vectors = (summed / lengths[:, None]).astype(np.float32)
    return mean
