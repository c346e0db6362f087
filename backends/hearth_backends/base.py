"""The contracts between the engine and every backend, and the values that cross them.

That of key-value memory is `hearth_backends.kv.contract`, that of encoders `hearth_backends.encoder`. Nothing here imports a heavy library. Arrays are NumPy; shapes and dtypes stand beside each field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.encoder import Encoder, EncoderSpec
from hearth_backends.errors import Unsupported
from hearth_backends.kv.contract import KVOp, KVStore, Placement
from hearth_backends.weights.spec import ModelSpec

I32: TypeAlias = NDArray[np.int32]
F32: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]

# --- what a stage computes ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request samples; the written definition is in `hearth_backends.sampling`."""

    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0  # unsigned 64 bit
    n_logprobs: int | None = None  # None: none; 0: of the chosen token; n: and of the n best

    @property
    def penalises(self) -> bool:
        """Whether sampling needs the tokens that came before."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """Parameters of the k wanted rows of a batch, in row order.

    A row with `targets[i] >= 0` is not sampled: its "sample" is that token (prompt scoring).
    """

    params: tuple[SamplingParams, ...]  # k
    positions: NDArray[np.int64]  # [k] output position: 0 for the first generated token
    targets: I32  # [k] -1: sample
    history: tuple[
        Sequence[int] | None, ...
    ]  # k; prompt + output before the row, where it penalises
    n_prompt: tuple[
        int, ...
    ]  # k; how much of history is prompt (not counted by presence/frequency)
    banned: tuple[
        tuple[int, ...], ...
    ]  # k; tokens that may not come (end tokens before min_tokens)
    mask: NDArray[np.uint32] | None = None  # [k, ceil(n_vocab / 32)] bit set: allowed (grammar)

    def __len__(self) -> int:
        return len(self.params)


@dataclass(frozen=True, slots=True)
class Recall:
    """What was exported of a prefix comes back: a group of a batch goes on after its first n_tokens."""

    group: int  # of the batch's rows, and so of its placements
    n_tokens: int
    blobs: tuple[bytes, ...]  # one for each stage; a stage is given its own only


@dataclass(frozen=True, slots=True)
class Batch:
    """n ragged rows grouped by sequence, positions ascending within each."""

    tokens: I32  # [n]; -1: this sequence's last sample, still on the device
    seq: I32  # [n] the row (Placement.row) that the sequence lives in
    pos: I32  # [n]
    want: Bools  # [n] logits of this row are sampled (or scored)
    ops: tuple[KVOp, ...]
    placements: tuple[Placement, ...]  # one for each group of rows, in order
    sampling: SamplingBatch | None  # None where nothing is wanted
    adapter: I32 | None = None  # [n] number of the row's adapter, 0 for none; None: of no row
    recalls: tuple[Recall, ...] = ()  # restored after the operations, before anything is computed


Hidden: TypeAlias = F32  # [n, d_model], before the final norm


class TopLogprobs(NamedTuple):
    """The best tokens of one row and their log-probabilities, best first."""

    tokens: I32  # [m]
    logprobs: F32  # [m]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the last stage returns: one token for each wanted row."""

    tokens: I32  # [k]
    logprobs: F32 | None = (
        None  # [k]; of the unpenalised, untempered distribution; nan where not asked
    )
    top: tuple[TopLogprobs | None, ...] = ()  # k, or empty when no row asked


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """A LoRA adapter as its file describes it."""

    path: Path
    digest: str  # hexadecimal; names these weights
    n_bytes: int  # that it takes once loaded


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Packing hints for the scheduler; never policy."""

    mixed: bool = True  # prefill and decode rows in one batch
    ragged: bool = True  # sequences with different numbers of rows in one batch
    max_prefill_seqs: int | None = (
        None  # sequences with more than one row in a batch; None: any number
    )
    async_depth: int = 0  # steps that may be submitted before the previous one's tokens are known
    shares_prefix: bool = True
    rollback: Literal["any", "checkpoint"] = "any"
    max_wants: int | None = None  # wanted rows in a batch
    saturating_rows: int | None = (
        None  # rows of prompts in a batch from which more cost in proportion; None: the more the better
    )
    adapters_per_batch: int | None = (
        None  # LoRA adapters that rows of a batch may have, none counts as one; None: any number
    )


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Layers [first, last) of one model and the room it is to run in."""

    first: int
    last: int
    embed: bool  # takes tokens; otherwise hidden states
    head: bool  # ends in norm, LM head and sampling; otherwise hidden states
    n_seq: int  # sequences at once
    n_ctx: int  # tokens in one sequence at most
    n_rows: int  # rows in one batch at most
    kv_tokens: int  # tokens over all sequences
    kv_dtype: str  # "f16" | "f32" | "q8_0" | "fp8"; a backend refuses what it has not
    weight_kind: str  # "file": as stored
    threads: int
    state_bytes: int | None = (
        None  # for saved states of models that carry one; None: as it sees fit
    )


Handle: TypeAlias = object
"""What `submit` returns and `poll` takes; opaque to the engine."""


class Stage(ABC):
    """Layers of one model on one device, or on one group of equal devices."""

    spec: StageSpec
    caps: Capabilities

    @abstractmethod
    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Start one step; `x` [n, d_model] where the spec has embed=False.

        Raises CapacityError when the memory for it is not there (nothing changed), StepError when the
        step failed and may be repeated after a rollback, BackendError when the stage is beyond use.
        """

    @abstractmethod
    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """The result of a step, or None while it runs; handles are polled in the order of submission.

        A stage without head returns Hidden for all rows; one with head returns Sampled (of length 0
        where nothing was wanted).
        """

    @abstractmethod
    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """The key-value state of a row's first n_tokens, tagged with model digest, range and backend."""

    @abstractmethod
    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        """Put the first n_tokens (None: all) of an exported state into a row; returns how many.

        Raises ForeignState for a blob that is damaged or another stage's, StepError where there is
        no room.
        """

    def recall(self, batch: Batch) -> None:
        """Restore what a batch recalls; raises what `restore` raises."""
        for recall in batch.recalls:
            self.restore(batch.placements[recall.group], recall.blobs[0], recall.n_tokens)

    def idle(self) -> bool:
        """Do a bit of what can be done at leisure, with no step under way; whether there is more.

        Raises what `submit` raises; what could not be done is not owed.
        """
        return False

    def state_kind(self) -> str:
        """What exported states are of: stages that say the same take each other's."""
        raise Unsupported("this backend exports no states")

    @property
    def peak_bytes(self) -> int | None:
        """The most that the stage has held of its device's memory; None where nobody measures it."""
        return None

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        """Make a LoRA adapter available under a number from 1 on.

        Raises Unsupported where there are none, ModelFileError for a file of another model.
        """
        raise Unsupported(f"{path}: this backend loads no adapters")

    @abstractmethod
    def close(self) -> None:
        """Free everything; idempotent."""


# --- backends, devices, memory -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device as a backend sees it."""

    name: str  # "cpu:0", "cuda:0": what the configuration calls it
    kind: Literal["cpu", "gpu", "npu"]
    description: str
    total_bytes: int | None
    free_bytes: int | None
    cores: int | None = None  # physical
    id: str | None = None  # PCI address or UUID, where the backend knows it
    vendor: str | None = None  # "nvidia", "amd", "intel", ..., where it can be one only


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a backend runs a model on a device, and why not."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Memory of a stage by purpose."""

    weights: int
    kv: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.workspace


@dataclass(frozen=True, slots=True)
class Lease:
    """Memory that the ledger granted on one device; nothing is allocated without one."""

    id: int
    device: str
    bytes: Bytes


Progress: TypeAlias = Callable[[float], None]
"""Called with a fraction in [0, 1] while a model loads."""


class Backend(ABC):
    """One way to run models: names devices, says what it supports, loads stages."""

    name: str

    @abstractmethod
    def devices(self) -> list[DeviceInfo]:
        """The devices this backend can use here."""

    def version(self) -> str:
        """Of what it computes with: with another one, a device is tested and measured anew."""
        return ""

    def weight_kinds(self) -> tuple[str, ...]:
        """What a StageSpec's `weight_kind` may be, "file" first."""
        return ("file",)

    @abstractmethod
    def supports(self, model: ModelSpec, device: DeviceInfo) -> Support:
        """Yes, or no with the reason in words."""

    @abstractmethod
    def estimate(self, model: ModelSpec, spec: StageSpec, device: DeviceInfo) -> Bytes:
        """Bytes that `load` will take; pure."""

    def group_support(self, model: ModelSpec, devices: Sequence[DeviceInfo]) -> Support:
        """Whether `load` shares every layer among these devices, which are several; no with the reason in words."""
        return Support(False, "it puts a stage on one device; `stages` cut a model into several")

    def estimate_share(
        self, model: ModelSpec, spec: StageSpec, devices: Sequence[DeviceInfo]
    ) -> Bytes:
        """Bytes that `load` will take on each of these devices, one or a group; pure."""
        return self.estimate(model, spec, devices[0])

    @abstractmethod
    def store(self, model: ModelSpec, spec: StageSpec) -> KVStore:
        """A fresh store of the kind this backend's stages need."""

    def open_adapter(self, model: ModelSpec, spec: StageSpec, path: Path) -> AdapterSpec:
        """What a stage will load as LoRA adapter; raises ModelFileError, Unsupported, naming the file."""
        raise Unsupported(f"{path}: backend {self.name} loads no adapters")

    @abstractmethod
    def load(
        self,
        model: ModelSpec,
        spec: StageSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Stage:
        """Load a stage; raises ModelFileError, Unsupported, OutOfMemory."""

    def layer_inputs(
        self, model: ModelSpec, texts: Sequence[Sequence[int]], threads: int
    ) -> Iterator[Mapping[str, F32]]:
        """Layer after layer, what its matrices are multiplied with while the model reads the texts.

        By the matrices' canonical names, [tokens of all texts, n_in]; raises Unsupported.
        """
        raise Unsupported(f"backend {self.name} does not let anybody look into its layers")

    def encoder_support(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Support:
        """Whether `load_encoder` would load it; no with the reason in words."""
        if type(self).load_encoder is Backend.load_encoder:
            return Support(False, "it runs no embedding models")
        return Support(True)

    def estimate_encoder(self, model: ModelSpec, spec: EncoderSpec, device: DeviceInfo) -> Bytes:
        """Bytes that `load_encoder` will take; pure. Unless a backend knows better: a guess."""
        rows = spec.n_rows * (12 * model.d_model + 2 * model.d_ff + spec.n_ctx * model.n_heads)
        return Bytes(model.layer_bytes(0, model.n_layers) + model.outer_bytes(), 0, 4 * rows)

    def load_encoder(
        self,
        model: ModelSpec,
        spec: EncoderSpec,
        devices: tuple[DeviceInfo, ...],
        leases: tuple[Lease, ...],
        progress: Progress,
    ) -> Encoder:
        """Load a whole model to encode with; raises ModelFileError, Unsupported, OutOfMemory."""
        raise Unsupported(f"backend {self.name} runs no embedding models")


class Tokenizer(Protocol):
    """Text to token ids and back, exact in bytes."""

    @property
    def n_vocab(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int | None: ...

    @property
    def end_ids(self) -> frozenset[int]:
        """Every token that ends a generation."""

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; `add_special` adds what the model wants around a text (BOS)."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; control tokens are empty unless `special`."""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes of a whole text (a leading space the tokenizer added is taken off)."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A tokenizer and a specification, as `registry.open_model` returns them."""

    spec: ModelSpec
    tokenizer: Tokenizer = field(compare=False)
