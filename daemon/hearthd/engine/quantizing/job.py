"""Job: one order of `hearthd quantize`, from the model to the last line of the table."""

from __future__ import annotations

import importlib.resources
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec

from hearth_backends import registry
from hearth_backends.base import F32, LoadedModel
from hearth_backends.errors import BackendError, ModelFileError, Unsupported
from hearth_backends.quantizing.checkpoint import write_quantized
from hearth_backends.quantizing.plan import KINDS, Target
from hearthd.engine.quantizing.table import Place, Way, compare
from hearthd.quantization import Failed, Made, Order, Progress, Said

PER_MILLE = 1000
NO_KIND = "none"
"""As only one of the kinds that are asked for: other files are compared, and nothing else."""
SEQUENCE_TOKENS = 512
"""Of a text that GPTQ reads, as much goes together."""
MOST_TOKENS = 16_384
"""What GPTQ reads at most: what enters a layer is in memory for all of them."""


def run(line: str) -> int:
    """Do what one line of JSON asks, saying lines of JSON; 1 where it failed.

    SIGTERM ends it, and what was half written is deleted.
    """
    signal.signal(signal.SIGTERM, _leave)
    order = msgspec.json.decode(line, type=Order)
    try:
        _do(order)
    except BackendError as error:
        say(Failed(str(error), error.code))
        return 1
    except MemoryError:
        say(Failed("no memory for that", "out_of_memory"))
        return 1
    return 0


def say(what: Said) -> None:
    """One line to hearthd."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def _leave(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(1)


def _do(order: Order) -> None:
    text = _read(order.text, "text.txt")
    model = registry.open_model("builtin:canary" if order.model == "canary" else order.model)
    ways: list[Way] = []
    if order.out is not None:
        _make(order, model)
        ways.append(Way("this checkpoint", order.out, order.backend))
    if order.compare:
        ways += _all_ways(order, model)
    if ways and (order.report or order.compare):
        place = Place(order.device, order.threads)
        say(compare(model, _original(order, model), ways, text, place, _Meter()))


def _make(order: Order, model: LoadedModel) -> None:
    kinds = {kind: kind for kind in KINDS}
    if order.kind not in kinds:
        raise Unsupported(f"weights are not made {order.kind!r:.40}; {', '.join(KINDS)} they are")
    target = Target(kinds[order.kind], order.symmetric, order.group)
    meter = _Meter()
    out = Path(order.out or "")
    layers, method = _layers(order, model)
    written = write_quantized(
        model,
        target,
        out,
        lambda part: meter("quantizing", part),
        replace=order.force,
        layers=layers,
    )
    scheme = registry.open_model(str(out)).spec.quantization
    kept = list(written.plan.kept)
    say(Made(str(out), written.n_bytes, written.source_bytes, scheme, method, kept))


def _layers(order: Order, model: LoadedModel) -> tuple[Iterator[Mapping[str, F32]] | None, str]:
    """What GPTQ looks at, and how numbers are rounded, in words; raises Unsupported where it is asked for in vain."""
    if order.kind != "int4":
        return None, "each number to the nearest"
    if order.method == "nearest":
        return None, "each number to the nearest, ranges of least squared error"
    text = _read(order.calibration, "calibration.txt")
    tokens = model.tokenizer.encode(text, add_special=False, parse_special=True)
    head = [model.spec.bos_id] if model.spec.add_bos and model.spec.bos_id is not None else []
    length = min(SEQUENCE_TOKENS, model.spec.context_trained) - len(head)
    most = min(len(tokens), MOST_TOKENS)
    texts = [head + tokens[at : at + length] for at in range(0, most, length)]
    try:
        layers = registry.backend(order.backend).layer_inputs(model.spec, texts, order.threads)
    except Unsupported as error:
        if order.method == "gptq":
            raise
        return None, f"each number to the nearest ({error})"
    return layers, f"GPTQ on {sum(map(len, texts))} tokens"


class _Meter:
    """Says how far it is, not more often than can be seen."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None

    def __call__(self, doing: str, fraction: float) -> None:
        now = (doing, int(fraction * PER_MILLE))
        if now != self._said:
            self._said = now
            say(Progress(doing, fraction))


def _read(path: str | None, default: str) -> str:
    """A text of the user's, or one that comes along."""
    if path is None:
        return importlib.resources.files("hearth_backends.quantizing").joinpath(default).read_text()
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ModelFileError(f"{path}: it cannot be read: {error}") from error


def _original(order: Order, model: LoadedModel) -> Way:
    """The most exact way that the backend has."""
    kinds = registry.backend(order.backend).weight_kinds()
    weights = "fp32" if "fp32" in kinds else "file"
    return Way(f"{order.backend} {weights}", str(model.spec.path), order.backend, weights)


def _all_ways(order: Order, model: LoadedModel) -> list[Way]:
    """Every kind of weights that the backend makes of the model, or those asked for, and the other files."""
    path, backend = str(model.spec.path), order.backend
    every = registry.backend(backend).weight_kinds()
    kinds = [kind for kind in order.kinds or every if kind not in ("fp32", NO_KIND)]
    ways = [Way(f"{backend} {kind}", path, backend, kind) for kind in kinds]
    if not order.kinds:
        exact = _original(order, model)
        ways.append(replace(exact, name=f"{exact.name}, q8_0 kv", kv_dtype="q8_0"))
    for rival in order.rivals:
        able = registry.candidates(registry.open_model(rival))
        best = backend if backend in able else able[0]
        ways.append(Way(f"{best} {Path(rival).name}", rival, best))
    return ways
