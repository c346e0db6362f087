"""GgufBackend: llama.cpp on the CPU, whole models and layer ranges, from GGUF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hearth_backends.base import (
    I32,
    AdapterSpec,
    Backend,
    Batch,
    Bytes,
    Capabilities,
    DeviceInfo,
    Hidden,
    Lease,
    Progress,
    SamplingBatch,
    SamplingParams,
    Stage,
    StageSpec,
    Support,
)
from hearth_backends.encoder import Encoder, EncoderSpec
from hearth_backends.errors import BackendError, ModelFileError, StepError, Unsupported
from hearth_backends.gguf.adapter_slice import outside_layers
from hearth_backends.gguf.context import BatchBuffers, Context, ContextOptions
from hearth_backends.gguf.cutting import (
    CUTS,
    Readout,
    is_whole,
    model_support,
    range_support,
    shares_prefixes,
    token_scale,
    vector_divisor,
)
from hearth_backends.gguf.encoder import encoder_support, load_gguf_encoder
from hearth_backends.gguf.encoder_memory import estimate_encoder_bytes
from hearth_backends.gguf.ggml_devices import other_devices
from hearth_backends.gguf.llama import KV_TYPES, MOST_SEQUENCES, VERSION, Model
from hearth_backends.gguf.memory import (
    estimate_bytes,
    has_pools,
    metadata_changes,
    n_cells,
    n_outputs,
    n_state_tokens,
    n_states,
    uses_flash_attention,
)
from hearth_backends.gguf.readout import HiddenReadout, LayerInputReadout, NodeReadout
from hearth_backends.gguf.slice import has_sentinel, sliced_file
from hearth_backends.gguf.stage import NAME, Embed, GgufStage, Parts
from hearth_backends.kv.cells import CellStore
from hearth_backends.kv.contract import KVOp, KVStore, OpKind, Placement, SequenceView
from hearth_backends.kv.rows import RowStore
from hearth_backends.kv.slots import SlotStore
from hearth_backends.kv.states import StateStore
from hearth_backends.processor import processor
from hearth_backends.weights.gguf_adapter import open_adapter
from hearth_backends.weights.gguf_file import GgufFile
from hearth_backends.weights.spec import ModelSpec


class GgufBackend(Backend):
    """llama.cpp; one context a stage, its cells in one pool or in one for each sequence."""

    name = NAME

    def devices(self) -> list[DeviceInfo]:
        """The CPU, and what else llama.cpp was built for and finds."""
        return [processor(), *other_devices()]

    def version(self) -> str:
        """Of the binding, which is that of llama.cpp."""
        return f"llama-cpp-python {VERSION}"

    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Whether it runs the whole model; `load` says of a part."""
        if device.kind != "cpu":
            return Support(False, f"it runs on the CPU, not on {device.name}")
        return model_support(model)

    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Weights and key-value memory to the byte, compute buffers about."""
        return estimate_bytes(model, spec)

    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        """Slots or cells; without a prefix cache where a sliding window makes early tokens unreliable.

        Saved states where the model carries one.
        """
        if model.state is not None:
            return StateStore(
                spec.n_seq,
                spec.n_ctx,
                n_states(model, spec),
                n_tokens=spec.kv_tokens,
                n_state_tokens=n_state_tokens(model, spec),
            )
        shares = shares_prefixes(model, spec.n_ctx)
        if has_pools(model, spec):
            return (SlotStore if shares else UnsharedSlots)(spec.n_seq, spec.n_ctx)
        return (CellStore if shares else UnsharedCells)(spec.n_seq, spec.kv_tokens, spec.n_ctx)

    def encoder_support(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Support:
        """Whether it encodes with the model."""
        if device.kind != "cpu":
            return Support(False, f"it runs on the CPU, not on {device.name}")
        return encoder_support(model, spec)

    def estimate_encoder(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Bytes:
        """As of a stage."""
        return estimate_encoder_bytes(model, spec)

    def load_encoder(
        self,
        model: ModelSpec,
        spec: EncoderSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Encoder:
        """Load the file and encode one text for warmth."""
        return load_gguf_encoder(model, spec, progress)

    def open_adapter(self, model: ModelSpec, spec: StageSpec, path: Path) -> AdapterSpec:
        """See Backend; a part of a model is adapted within its layers only."""
        adapter = open_adapter(path, model)
        outer = None if is_whole(model, spec) else outside_layers(path)
        if outer is not None:
            raise Unsupported(
                f"{path}: it adapts {outer}, which takes the whole model on one stage"
            )
        return adapter

    def load(
        self,
        model: ModelSpec,
        spec: StageSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Stage:
        """Load the file, or a slice of it, and compute one step for warmth."""
        _refuse(model, spec)
        if model.path is None:
            raise ModelFileError(f"{model.name} has no file")
        if is_whole(model, spec):
            parts = _load_whole(model, model.path, spec, progress)
        else:
            parts = _load_range(model, model.path, spec, progress)
        stage = GgufStage(spec, _capabilities(model, spec), parts)
        try:
            _warm_up(stage, model)
        except BaseException:
            stage.close()
            raise
        progress(1.0)
        return stage


_SATURATING_ROWS = 64
"""On processors, a row in 128 costs as much as one in 512, and in 16 half as much again."""


class _Unshared(RowStore):
    """No sequence takes over another's tokens: llama.cpp reuses cells that left a sliding window."""

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """Nothing is cached."""
        return super().match(seq, 0)

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """See KVStore."""
        super().release(seq, keep_cached=False)


class UnsharedCells(_Unshared, CellStore):
    """Cells without a prefix cache."""


class UnsharedSlots(_Unshared, SlotStore):
    """Slots without a prefix cache."""


def _capabilities(model: ModelSpec, spec: StageSpec) -> Capabilities:
    return Capabilities(
        shares_prefix=model.state is not None or shares_prefixes(model, spec.n_ctx),
        rollback="any" if model.state is None else "checkpoint",
        max_wants=n_outputs(spec) if spec.head else None,
        saturating_rows=_SATURATING_ROWS,
        adapters_per_batch=1,
    )


def _refuse(model: ModelSpec, spec: StageSpec) -> None:
    """Raise Unsupported for what this backend cannot load."""
    for support in (model_support(model), range_support(model, spec)):
        if not support.ok:
            raise Unsupported(f"backend {NAME}: {support.reason}")
    if spec.kv_dtype not in KV_TYPES:
        raise Unsupported(
            f"backend {NAME} keeps keys and values in {', '.join(KV_TYPES)}, not {spec.kv_dtype}"
        )
    if spec.kv_dtype == "q8_0" and model.head_dim % 32 and _attends(model):
        raise Unsupported(
            f"kv_dtype q8_0 needs heads of a multiple of 32, and {model.name} has {model.head_dim}"
        )
    if spec.weight_kind != "file":
        raise Unsupported(f"backend {NAME} computes with weights as the file stores them")
    if spec.n_seq > MOST_SEQUENCES:
        raise Unsupported(
            f"backend {NAME} runs at most {MOST_SEQUENCES} sequences, not {spec.n_seq}"
        )


def _attends(model: ModelSpec) -> bool:
    """Whether any layer keeps keys and values."""
    return model.state is None or model.state.n_attention_layers > 0


# --- loading -----------------------------------------------------------------------------------


BYTES_PER_THREAD = 8 << 20
"""Weights that keep one thread busy for a step; with fewer, threads mostly wait for each other."""


def useful_threads(model: ModelSpec, spec: StageSpec) -> int:
    """The threads asked for, or as many as the weights of the range keep busy."""
    n_bytes = model.layer_bytes(spec.first, spec.last)
    if spec.head:
        n_bytes += model.outer_bytes()
    return max(1, min(spec.threads, n_bytes // BYTES_PER_THREAD))


def _options(model: ModelSpec, spec: StageSpec) -> ContextOptions:
    return ContextOptions(
        n_cells=n_cells(model, spec),
        n_rows=spec.n_rows,
        n_seq=spec.n_seq,
        n_outputs=n_outputs(spec),
        kv_dtype=spec.kv_dtype,
        threads=useful_threads(model, spec),
        flash_attention=uses_flash_attention(spec),
        kv_unified=not has_pools(model, spec),
    )


def _load_whole(model: ModelSpec, path: Path, spec: StageSpec, progress: Progress) -> Parts:
    loaded = Model(str(path), numbers=metadata_changes(model, spec), progress=progress)
    try:
        context = Context(loaded, _options(model, spec))
    except BaseException:
        loaded.close()
        raise
    return Parts(loaded, context, BatchBuffers(spec.n_rows, None), model.digest, None, None)


def _load_range(model: ModelSpec, path: Path, spec: StageSpec, progress: Progress) -> Parts:
    loaded = _load_slice(model, path, spec, progress)
    readout = None if spec.head else _readout(model, spec)
    on_node = readout.on_node if isinstance(readout, NodeReadout) else None
    try:
        context = Context(loaded, _options(model, spec), on_node)
        if has_sentinel(model.architecture, spec):
            context.keep_layer_input(spec.last - spec.first)
    except BaseException:
        loaded.close()
        raise
    return Parts(
        loaded,
        context,
        BatchBuffers(spec.n_rows, model.d_model),
        model.digest,
        _embedder(GgufFile(path)) if spec.embed else None,
        readout,
        vector_divisor(model),
    )


def _load_slice(model: ModelSpec, path: Path, spec: StageSpec, progress: Progress) -> Model:
    """The layers of a stage; no page of the whole file or of the slice stays mapped."""
    file = GgufFile(path)
    if file.spec.digest != model.digest:
        raise ModelFileError(f"{path}: the file has changed since it was described")
    with sliced_file(file, spec) as slice_path:
        return Model(
            slice_path,
            name=str(path),
            mmap=False,
            numbers=metadata_changes(model, spec),
            progress=progress,
        )


def _readout(model: ModelSpec, spec: StageSpec) -> HiddenReadout:
    n_layers = spec.last - spec.first
    if CUTS[model.architecture].readout is Readout.LAYER_INPUT:
        return LayerInputReadout(n_layers)
    return NodeReadout(n_layers, spec.n_rows, model.d_model)


def _embedder(file: GgufFile) -> Embed:
    """Looks tokens up in the mapped file."""
    scale = np.float32(token_scale(file.spec))
    n_vocab = file.spec.n_vocab

    def embed(tokens: I32) -> Hidden:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_vocab:
            raise StepError(f"a token that is not one of {n_vocab}")
        rows = file.rows("model.embed_tokens.weight", tokens)
        return rows if scale == 1 else rows * scale

    return embed


def _warm_up(stage: GgufStage, model: ModelSpec) -> None:
    """One step of two rows, then forgotten: the first page faults are paid here, and results are sane.

    Raises BackendError where hidden states do not come out as they should.
    """
    spec = stage.spec
    n = min(2, spec.n_rows, spec.n_ctx)
    batch = Batch(
        tokens=np.zeros(n, np.int32),
        seq=np.zeros(n, np.int32),
        pos=np.arange(n, dtype=np.int32),
        want=np.arange(n) == n - 1,
        ops=(),
        placements=(Placement(0),),
        sampling=_GREEDY if spec.head else None,
    )
    hidden = None if spec.embed else np.ones((n, model.d_model), np.float32)
    result = stage.poll(stage.submit(batch, hidden))
    if isinstance(result, np.ndarray) and not (result.shape[0] == n and np.isfinite(result).all()):
        raise BackendError(
            f"hidden states of layer {spec.last - 1} do not come out of {model.name}"
        )
    empty = np.empty(0, np.int32)
    clear = KVOp(OpKind.TRUNCATE, 0, 0, 0)
    stage.submit(Batch(empty, empty, empty, np.empty(0, np.bool_), (clear,), (), None), None)


_GREEDY = SamplingBatch(
    params=(SamplingParams(temperature=0),),
    positions=np.zeros(1, np.int64),
    targets=np.full(1, -1, np.int32),
    history=(None,),
    n_prompt=(0,),
    banned=((),),
)
