"""Job: one order of `hearthd quantize`, from the model to the last line of the table."""

from __future__ import annotations

import importlib.resources
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec

from hearth_backends import registry
from hearth_backends.base import LoadedModel
from hearth_backends.errors import BackendError, ModelFileError, Unsupported
from hearth_backends.quantizing.checkpoint import write_quantized
from hearth_backends.quantizing.plan import KINDS, Target
from hearthd.engine.quantizing.table import Place, Way, compare
from hearthd.quantization import Failed, Made, Order, Progress, Said

PER_MILLE = 1000


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
    text = _text(order)
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
    written = write_quantized(
        model, target, out, lambda part: meter("quantizing", part), replace=order.force
    )
    scheme = registry.open_model(str(out)).spec.quantization
    kept = list(written.plan.kept)
    say(Made(str(out), written.n_bytes, written.source_bytes, scheme, kept))


class _Meter:
    """Says how far it is, not more often than can be seen."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None

    def __call__(self, doing: str, fraction: float) -> None:
        now = (doing, int(fraction * PER_MILLE))
        if now != self._said:
            self._said = now
            say(Progress(doing, fraction))


def _text(order: Order) -> str:
    if order.text is None:
        return (
            importlib.resources.files("hearth_backends.quantizing").joinpath("text.txt").read_text()
        )
    try:
        return Path(order.text).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ModelFileError(f"{order.text}: it cannot be read: {error}") from error


def _original(order: Order, model: LoadedModel) -> Way:
    """The most exact way that the backend has."""
    kinds = registry.backend(order.backend).weight_kinds()
    weights = "fp32" if "fp32" in kinds else "file"
    return Way(f"{order.backend} {weights}", str(model.spec.path), order.backend, weights)


def _all_ways(order: Order, model: LoadedModel) -> list[Way]:
    """Every kind of weights that the backend makes of the model, or those asked for, and the other files."""
    path, backend = str(model.spec.path), order.backend
    every = registry.backend(backend).weight_kinds()
    kinds = order.kinds or [kind for kind in every if kind != "fp32"]
    ways = [Way(f"{backend} {kind}", path, backend, kind) for kind in kinds]
    if not order.kinds:
        exact = _original(order, model)
        ways.append(replace(exact, name=f"{exact.name}, q8_0 kv", kv_dtype="q8_0"))
    for rival in order.rivals:
        best = registry.candidates(registry.open_model(rival))[0]
        ways.append(Way(f"{best} {Path(rival).name}", rival, best))
    return ways
