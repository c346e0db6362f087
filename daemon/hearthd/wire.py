"""The frames between hearthd and an engine: length-prefixed msgpack over a socket pair.

A frame is four bytes of length (big endian) and a msgpack map with a `type` tag. Life of an engine:

    hearthd                          engine
    Load                       ->
                               <-    LeaseRequest      what the load will take
    LeaseGrant | LeaseRefusal  ->
                               <-    Loading ...       progress
                               <-    Ready | Failed
    Submit, Embed, Cancel, Encode, Decode ->
                               <-    Step (deltas), Embedded, Reject, Encoded, Decoded
    Hold                       ->                      use this share of your seats from now on
    Probe                      ->                      where it was silent for a while
                               <-    Probed            a token or a vector was computed, or other work went on
                               <-    Beat              each second, from its own thread
    Stop                       ->                      finishes what runs, then exits

Times are seconds of the system-wide monotonic clock, so both ends may subtract them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Literal, TypeAlias

import msgspec

MAX_FRAME_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Frame(msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True):
    """One message; the class name is its tag."""


# --- loading -----------------------------------------------------------------------------------


class StageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stage of a forced plan: layers [first, last) of a model on a device, or on a group of equal ones."""

    backend: str
    device: str = "cpu:0"  # a group: "cuda:0+cuda:1", see `device_names`
    layers: tuple[int, int] | None = None  # None: all
    own_process: bool | None = None  # None: decided, see `hearthd.engine.stages.homes`
    cpus: tuple[int, ...] = ()  # processors that it keeps to; empty: all that the engine may use
    ledger: str | None = None  # what leases call the device; None: as the backend does


def device_names(device: str) -> list[str]:
    """The devices that a stage's `device` names; several share its layers as one group."""
    return device.split("+")


def group_name(devices: Iterable[str]) -> str:
    """What `device_names` takes apart."""
    return "+".join(devices)


class AdapterConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """A LoRA adapter of a model, for the requests that name it."""

    name: str
    path: str


class DraftConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that guesses for another, in the same engine; its room is that of the other."""

    name: str  # as the configuration calls it, or its path
    path: str
    backend: str | None = None
    device: str = "cpu:0"
    stages: list[StageConfig] = []
    kv_dtype: str = "f16"
    weights: str = "file"
    threads: int | None = None
    options: dict[str, Any] = {}


Task: TypeAlias = Literal["generate", "embed", "rerank"]
"""What a model does: continue texts, turn them into vectors, or score documents for a query."""
EncodingTask: TypeAlias = Literal["embed", "rerank"]
VectorPooling: TypeAlias = Literal["mean", "cls", "last"]
"""How the vectors of a text's tokens become one."""


class Load(Frame, frozen=True):
    """Which model to load, and how; the first frame an engine gets."""

    name: str
    path: str
    backend: str | None = None  # None: the best that reads the file
    device: str = "cpu:0"
    stages: list[StageConfig] = []
    context: int | None = None  # tokens of one sequence; None: what the model was trained for
    concurrency: int = 16  # sequences at once
    kv_tokens: int | None = None  # over all sequences; None: decided from the budget
    kv_dtype: str = "f16"
    weights: str = "file"  # the kind they are computed with; "file": as stored
    step_tokens: int = 512  # rows of one step at most
    grammar_seconds: float = 0.02  # that the mask of one token may take, in the long run
    itl_target_seconds: float = 0.05  # between the tokens of a stream, while prompts are computed
    aging_seconds: float = 30.0  # after which a class gets a turn before those above it
    threads: int | None = None  # None: physical cores
    budget_bytes: int | None = None  # memory that the load may plan with
    prefix_ram_bytes: int | None = None  # of host memory for idle prefixes; None: decided
    prefix_disk_bytes: int = 0  # of files for prefixes that outlive the engine
    prefix_folder: str | None = None  # where those are; None: nowhere
    lookup: bool = True  # whether a request's own text guesses for it
    draft: DraftConfig | None = None  # what guesses for it, besides its own text
    lora: list[AdapterConfig] = []
    task: Task | None = None  # None: what the file was made for
    pooling: VectorPooling | None = None  # None: as the file says
    options: dict[str, Any] = {}  # of the backend
    quarantined: dict[str, str] = {}  # "BACKEND DEVICE" on which nothing is put, to the reason


class LeaseRequest(Frame, frozen=True):
    """Memory the engine is about to take on a device; nothing is allocated before the grant."""

    device: str
    weights_bytes: int
    kv_bytes: int
    workspace_bytes: int
    explanation: str = ""
    backend: str = ""  # of all that is loaded on the device
    settings: str = ""  # layers and room: with the same, a load takes the same


class LeaseGrant(Frame, frozen=True):
    """The ledger's yes."""

    lease: int


class LeaseRefusal(Frame, frozen=True):
    """The ledger's no, with the arithmetic."""

    message: str


class Loading(Frame, frozen=True):
    """How far a load is."""

    phase: str  # "reading" | "loading" | "warming"
    fraction: float
    device: str | None = None  # that is loaded on from now, as leases call it; None: the same


ToolFormat: TypeAlias = Literal["hermes", "llama3", "mistral", "mistral-args"]
"""How a model writes calls of tools; `hearthd.engine.tool_format` shows them."""
DEFAULT_TOOL_FORMAT: ToolFormat = "hermes"
"""For models whose template teaches none."""


class ModelInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A loaded model as clients see it."""

    digest: str
    architecture: str
    quantization: str
    n_parameters: int
    n_vocab: int
    n_layers: int
    context: int
    concurrency: int
    kv_tokens: int
    backend: str
    stages: list[StageConfig]
    has_chat_template: bool
    weights_bytes: int
    rss_bytes: int | None = None  # of the engine after the load
    device_peak_bytes: int | None = None  # that the load held of GPUs at most, as measured
    tool_format: ToolFormat | None = None  # that its chat template teaches
    task: Task = "generate"
    embedding_size: int | None = None  # of a vector
    pooling: str | None = None  # of an embedding model
    draft: str | None = None  # the model that guesses for it
    adapters: dict[str, str] = {}  # of its LoRA adapters the digests, by name


class Ready(Frame, frozen=True):
    """The model answers."""

    info: ModelInfo
    load_seconds: float


class Failed(Frame, frozen=True):
    """The engine gives up; it exits after this frame."""

    code: str
    message: str


class Stop(Frame, frozen=True):
    """Take nothing new, finish within the deadline, write prefixes to disk for so long, exit."""

    deadline_seconds: float = 0.0
    save_seconds: float = 0.0


# --- requests ----------------------------------------------------------------------------------


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to sample; the meaning of each field is in `hearth_backends.sampling`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: list[tuple[int, float]] = []
    seed: int = 0
    n_logprobs: int | None = None


class JsonConstraint(msgspec.Struct, frozen=True, tag="json", omit_defaults=True):
    """The output is one JSON value that a schema (draft 2020-12) accepts."""

    schema: dict[str, Any] | bool
    param: str = "response_format"  # the field of the request that a refusal names


class RegexConstraint(msgspec.Struct, frozen=True, tag="regex", omit_defaults=True):
    """The whole output matches a regular expression."""

    pattern: str
    param: str = "guided_regex"


class GrammarConstraint(msgspec.Struct, frozen=True, tag="grammar", omit_defaults=True):
    """The whole output is derived from a grammar, in Lark's notation or in GBNF."""

    text: str
    param: str = "guided_grammar"


class ChoiceConstraint(msgspec.Struct, frozen=True, tag="choice", omit_defaults=True):
    """The output is one of some strings."""

    choices: list[str]
    param: str = "guided_choice"


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call; no parameters: it takes none."""

    name: str
    parameters: dict[str, Any] | bool | None = None
    param: str = "tools"  # the field of the request that a refusal of the parameters names


class ToolConstraint(msgspec.Struct, frozen=True, tag="tools", omit_defaults=True):
    """Calls of tools, in the form the model speaks, whose arguments their schemas accept.

    Forced: the output is one call, or several where `parallel`. Otherwise text, and calls where the
    model makes them.
    """

    tools: list[Tool]
    forced: bool = True
    parallel: bool = True
    answer: dict[str, Any] | bool | None = None  # not forced: what has to accept the text, as JSON
    param: str = "tools"
    answer_param: str = "response_format"


Constraint: TypeAlias = (
    JsonConstraint | RegexConstraint | GrammarConstraint | ChoiceConstraint | ToolConstraint
)
"""What the output must be; an engine that cannot see to it refuses the request."""


class Submit(Frame, frozen=True):
    """One request: exactly one of text, tokens and messages is the prompt."""

    rid: int
    sampling: Sampling
    text: str | None = None
    tokens: list[int] | None = None
    messages: list[dict[str, Any]] | None = None  # OpenAI's shape, validated by the API
    template_args: dict[str, Any] = {}
    add_special: bool = True  # BOS before `text`, where the model wants one
    emitted: list[int] = []  # output already sent, before an engine was lost
    max_tokens: int | None = None  # None: up to the context
    min_tokens: int = 0
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    include_stop: bool = False  # keep the stop string in the text
    echo: bool = False  # the prompt's text and tokens come first
    prompt_logprobs: int | None = None  # of the prompt's tokens, and of the n best at each
    priority: int = 0  # higher goes first
    key: str = ""  # whose share it counts against
    weight: float = 1.0
    deadline_seconds: float | None = None  # monotonic clock
    arrived_seconds: float = 0.0  # monotonic clock
    adapter: str | None = None  # name of one of the model's LoRA adapters
    salt: str = ""  # prefixes are shared only under the same salt
    constraint: Constraint | None = None
    calls_tools: bool = False  # marks of tool calls are part of the text, control tokens or not


class Embed(Frame, frozen=True):
    """Vectors of texts or token lists, one of the two; with a query, scores of the texts for it."""

    rid: int
    texts: list[str] | None = None
    token_lists: list[list[int]] | None = None
    query: str | None = None
    add_special: bool = True  # the marks around a text that the model wants
    truncate: int | None = None  # tokens of a text or a pair at most; below 0: what fits
    most_document_tokens: int | None = None  # of each document, beside the query
    dimensions: int | None = None  # of a vector; None: all there are
    priority: int = 0  # as of Submit, here and below
    key: str = ""
    weight: float = 1.0
    deadline_seconds: float | None = None
    arrived_seconds: float = 0.0


class Cancel(Frame, frozen=True):
    """The client has gone."""

    rid: int


class Hold(Frame, frozen=True):
    """Use this share of your seats from now on, 0 to 1, one at least: the box is hot or is to be quiet."""

    share: float

    def of(self, n: int) -> int:
        """So many of n seats."""
        return max(1, int(n * self.share))


class Probe(Frame, frozen=True):
    """Show that you answer: compute one token, unless a step of other work is committed before that."""

    number: int


class Probed(Frame, frozen=True):
    """Answer to Probe."""

    number: int


class Encode(Frame, frozen=True):
    """Tokens of a text, or of a chat as the template renders it."""

    rid: int
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    template_args: dict[str, Any] = {}
    add_special: bool = True
    add_generation_prompt: bool = True


class Decode(Frame, frozen=True):
    """The text of tokens."""

    rid: int
    tokens: list[int]


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One token, its bytes, its log-probability (None: the first of a text has none), and the n best."""

    token: int
    piece: bytes
    logprob: float | None
    top: list[tuple[int, bytes, float]] = []


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of one request."""

    n_prompt: int
    n_output: int
    n_cached: int
    n_preempted: int = 0  # times it had to leave its place for others


FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What one step adds to one request."""

    rid: int
    text: str = ""
    tokens: list[int] = []
    logprobs: list[TokenLogprob] | None = None
    finish: FinishReason | None = None
    usage: Usage | None = None  # with the first delta (n_output so far) and with finish
    started_seconds: float | None = None  # with the first delta: when it left the queue
    error: tuple[str, str] | None = None  # code, message; with finish "error"
    stopped_by: str | int | None = None  # the stop string or token, with finish "stop"


class Step(Frame, frozen=True):
    """The deltas of one step."""

    deltas: list[Delta]


class Reject(Frame, frozen=True):
    """A submit, encode or decode that cannot be done; the request is over."""

    rid: int
    status: int
    code: str
    message: str
    param: str | None = None


class Encoded(Frame, frozen=True):
    """Answer to Encode."""

    rid: int
    tokens: list[int]
    pieces: list[bytes]


class Decoded(Frame, frozen=True):
    """Answer to Decode."""

    rid: int
    text: str


class Embedded(Frame, frozen=True):
    """Answer to Embed: n vectors in order, or n scores (dim 1), as little-endian float32 [n, dim]."""

    rid: int
    n: int
    dim: int
    values: bytes
    n_prompt: int  # tokens of all texts
    started_seconds: float | None = None  # when the first of them left the queue


class Beat(Frame, frozen=True):
    """A sign of life with the engine's counters; totals since start."""

    n_running: int
    n_waiting: int
    kv_tokens_free: int | None  # None: there is no such memory
    step_age_seconds: float | None  # how long the present step has run; None: idle
    n_steps: int
    n_prompt_tokens: int
    n_cached_tokens: int
    n_output_tokens: int
    n_preemptions: int
    n_step_failures: int
    prefix_ram_bytes: int = 0  # of copies of prefixes, now
    prefix_disk_bytes: int = 0  # of their files, now
    n_recalls: int = 0  # requests that went on after a copy
    n_disk_recalls: int = 0  # of these, those whose copy came from a file
    n_recalled_tokens: int = 0
    n_texts: int = 0  # encoded
    busy_seconds: float = 0.0  # spent encoding
    n_drafted: dict[str, int] = {}  # tokens guessed, by whose guess: lookup, model, grammar
    n_draft_accepted: dict[str, int] = {}  # of these, those that stood
    draft_gain: float | None = None  # decoding speed over that without guesses, lately
    draft_model_seconds: float = 0.0  # that the draft model took
    draft_failure: str | None = None  # why the draft model guesses no more
    peak_bytes: int | None = None  # that the process has held at most


ToEngine: TypeAlias = (
    Load
    | LeaseGrant
    | LeaseRefusal
    | Submit
    | Embed
    | Cancel
    | Encode
    | Decode
    | Hold
    | Probe
    | Stop
)
FromEngine: TypeAlias = (
    LeaseRequest
    | Loading
    | Ready
    | Failed
    | Step
    | Reject
    | Embedded
    | Encoded
    | Decoded
    | Probed
    | Beat
)

_encoder = msgspec.msgpack.Encoder()
to_engine_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
from_engine_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def encode(frame: Frame) -> bytes:
    """One frame with its length prefix."""
    body = _encoder.encode(frame)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Bytes in, bodies of whole frames out; raises ValueError for a length over MAX_FRAME_BYTES."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes and yield the frame bodies that are complete."""
        self._data += data
        start = 0
        while len(self._data) - start >= _LENGTH.size:
            (n_bytes,) = _LENGTH.unpack_from(self._data, start)
            if n_bytes > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {n_bytes} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = start + _LENGTH.size + n_bytes
            if len(self._data) < end:
                break
            yield bytes(self._data[start + _LENGTH.size : end])
            start = end
        del self._data[:start]
