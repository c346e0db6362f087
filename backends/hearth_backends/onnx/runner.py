"""Runner: one run of a session over neighbouring slots, its inputs and outputs bound by address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32
from hearth_backends.errors import BackendError, StepError
from hearth_backends.onnx.decoder import WANTED
from hearth_backends.onnx.kinds import ZEROS
from hearth_backends.onnx.session import RUN_ERRORS, Session, bind_input, bind_output
from hearth_backends.onnx.slots import Slots

BINDINGS_KEPT = 64
"""Bound shapes that are kept for the next step; to bind anew takes a quarter of a millisecond."""


class Shape(NamedTuple):
    """What a binding is for: slots [first, first + batch), so many tokens of each, so many wanted rows."""

    first: int
    batch: int
    length: int
    n_wanted: int  # 0 where the stage has no head

    @property
    def n_rows(self) -> int:
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class Widths:
    """Sizes of a stage's inputs and outputs."""

    d_model: int
    qkv: int
    n_out: int  # vocabulary, or d_model where the stage has no head
    layers: tuple[int, ...]
    has_head: bool


@dataclass(slots=True)
class _Bound:
    """A binding and the arrays it points to."""

    binding: Any
    x: F32
    lengths: NDArray[np.int32]
    longest: NDArray[np.int32]
    wanted: NDArray[np.int64]
    out: F32
    kept: tuple[Any, ...]


class Runner:
    """Runs a stage's session, one shape at a time."""

    def __init__(self, session: Session, slots: Slots, widths: Widths) -> None:
        self._session = session
        self._slots = slots
        self._widths = widths
        self._bound: OrderedDict[Shape, _Bound] = OrderedDict()

    def run(
        self, first: int, length: int, before: Sequence[int], x: F32, wanted: NDArray[np.int64]
    ) -> F32:
        """Compute `length` tokens of each of the slots from `first` on, which hold `before` tokens.

        `x` [batch * length, d_model]; gives logits of the wanted rows, or hidden states of all, in an
        array that the next run writes over. Raises StepError, and BackendError when memory ran out.
        """
        if not before or length < 1:
            raise StepError("a run of no rows")  # ONNX Runtime would divide by zero, and be gone
        n_wanted = max(1, len(wanted)) if self._widths.has_head else 0
        bound = self._bind(Shape(first, len(before), length, n_wanted))
        bound.x[:] = x
        bound.lengths[:] = before
        bound.lengths += length - 1
        bound.longest[...] = bound.lengths.max() + 1
        if self._widths.has_head:
            bound.wanted[: len(wanted)] = wanted
        try:
            self._session.run(bound.binding)
        except RUN_ERRORS as error:
            raise StepError(f"ONNX Runtime: {error}") from error
        except MemoryError as error:
            raise BackendError("ONNX Runtime found no memory for a step") from error
        return bound.out[: len(wanted)] if self._widths.has_head else bound.out

    def close(self) -> None:
        """Let go of the session and of all that is bound."""
        self._bound.clear()
        self._session.close()

    def _bind(self, shape: Shape) -> _Bound:
        bound = self._bound.get(shape)
        if bound is None:
            bound = self._bound[shape] = self._make(shape)
            while len(self._bound) > BINDINGS_KEPT:
                self._bound.popitem(last=False)
        else:
            self._bound.move_to_end(shape)
        return bound

    def _make(self, shape: Shape) -> _Bound:
        binding, widths, n_rows = self._session.binding(), self._widths, shape.n_rows
        x = np.zeros((n_rows, widths.d_model), np.float32)
        lengths = np.zeros(shape.batch, np.int32)
        longest = np.zeros((), np.int32)
        wanted = np.zeros(shape.n_wanted, np.int64)
        inputs: dict[str, NDArray[Any]] = {
            "x": x,
            "lengths": lengths,
            "longest": longest,
            "shape": np.array([shape.batch, shape.length, widths.qkv], np.int64),
            WANTED: wanted,
            ZEROS + "rows": np.full(n_rows, 128, np.uint8),
            ZEROS + WANTED: np.full(shape.n_wanted, 128, np.uint8),
        }
        for name, array in inputs.items():
            if name in self._session.inputs:
                bind_input(binding, name, array)
        self._bind_slots(binding, shape)
        n_out = shape.n_wanted if widths.has_head else n_rows
        out = np.zeros((n_out, widths.n_out), np.float32)
        bind_output(binding, "logits" if widths.has_head else "hidden", out)
        return _Bound(binding, x, lengths, longest, wanted, out, tuple(inputs.values()))

    def _bind_slots(self, binding: Any, shape: Shape) -> None:
        """Keys and values are read and written in place."""
        for i, layer in enumerate(self._widths.layers):
            for which, name in enumerate(("key", "value")):
                view = self._slots.view(i, which, shape.first, shape.batch)
                bind_input(binding, f"{name}_{layer}", view)
                bind_output(binding, f"new_{name}_{layer}", view)
