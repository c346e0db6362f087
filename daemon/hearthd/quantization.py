"""What `hearthd quantize` asks of its engine process, and what that says: one line of JSON for each."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Order(msgspec.Struct, frozen=True):
    """One model to be quantized, compared, or both."""

    model: str  # a file, a folder, or "canary"
    out: str | None  # the folder to be made; None: nothing is written
    kind: str  # "int4", "int8", "fp8"
    symmetric: bool = True
    group: int | None = None
    method: str | None = None  # of int4: "gptq" or "nearest"; None: gptq where the backend can
    calibration: str | None = None  # a file that gptq reads; None: the text that comes with Hearth
    force: bool = False
    report: bool = True  # whether what was made is held against the model
    text: str | None = None  # a file to compare on; None: the text that comes with Hearth
    compare: bool = False  # whether every kind that a backend makes of the model is, too
    kinds: list[str] = []  # of those, only these; none: all
    rivals: list[str] = []  # more files of the same model to be held against it
    backend: str = "onnx"  # that computes what is compared
    device: str = "cpu:0"
    threads: int = 1


class Row(msgspec.Struct, frozen=True):
    """How far one way of computing the model is from the original."""

    name: str
    mean_kl: float
    p99_kl: float
    prompt_kl: float  # mean over tokens computed as a prompt
    decode_kl: float  # mean over tokens computed one by one
    same_best: float  # share of tokens after which both think the same likeliest
    perplexity: float
    weights_bytes: int | None = None


class Refused(msgspec.Struct, frozen=True):
    """A way that was not tried, and why."""

    name: str
    reason: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far it is."""

    doing: str
    fraction: float


class Made(msgspec.Struct, frozen=True, tag="made"):
    """The folder is there."""

    out: str
    n_bytes: int
    source_bytes: int
    scheme: str
    method: str  # how numbers were rounded, in words
    kept: list[str]  # matrices that stay as they were


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """The table."""

    reference: str
    n_tokens: int
    perplexity: float  # of the original
    rows: list[Row]
    refused: list[Refused]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It ends here."""

    error: str
    code: str


Said: TypeAlias = Progress | Made | Compared | Failed
