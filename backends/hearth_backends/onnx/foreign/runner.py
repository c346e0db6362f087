"""ForeignRunner: runs of a graph made elsewhere, over the slots that all stages here have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32
from hearth_backends.errors import BackendError, StepError
from hearth_backends.onnx.buckets import Buckets, pieces, rounded
from hearth_backends.onnx.foreign.habits import Habits
from hearth_backends.onnx.foreign.ports import Fed, Ports
from hearth_backends.onnx.session import RUN_ERRORS, Session, bind_input, bind_output
from hearth_backends.onnx.slots import Slots

SCRATCH_TOKENS = 8192
"""Places of keys and values that runs copy out of slots at a time, unless one sequence is longer."""

BINDINGS_KEPT = 64

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of one run: sequences, tokens of each, places for keys and values; filling included."""

    rows: int
    length: int
    width: int  # of what comes in; in place: as much as the slots have
    total: int  # of what is attended to


class ForeignRunner:
    """Runs a session whose inputs are made here: tokens in, logits of wanted rows out."""

    def __init__(
        self,
        session: Session,
        slots: Slots,
        ports: Ports,
        *,
        in_place: bool,
        buckets: Buckets | None = None,
    ) -> None:
        """Owns the session. With `in_place`, which needs a graph that keeps rows, nothing is copied."""
        self.habits: Habits | None = None  # not known yet
        self._session = session
        self._slots = slots
        self._ports = ports
        self._in_place = in_place and ports.keeps_rows
        self._buckets = Buckets((), (), ()) if buckets is None else buckets
        self._bound: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def run(
        self, first: int, length: int, before: Sequence[int], x: Array, wanted: NDArray[np.intp]
    ) -> F32:
        """See StepRunner; `x` are tokens [rows]."""
        tokens = x.astype(np.int64).reshape(len(before), length)
        out = np.empty((len(wanted), self._ports.n_vocab), np.float32)
        if length > 1:
            self._run_text(first, before[0], tokens, wanted, out)
            return out
        place = np.full(len(before), -1)
        place[wanted] = np.arange(len(wanted))
        for group in self._groups(before):
            logits = self.compute(
                [first + i for i in group], [before[i] for i in group], tokens[group]
            )
            for i, row in zip(group, logits, strict=True):
                if place[i] >= 0:
                    out[place[i]] = row[-1]
        return out

    def close(self) -> None:
        """Free the session; idempotent."""
        self._session.close()

    # --- what shares a run -----------------------------------------------------------------------

    def _run_text(
        self, slot: int, before: int, tokens: NDArray[np.int64], wanted: NDArray[np.intp], out: F32
    ) -> None:
        """One sequence's tokens in as few runs as the graph's habits allow."""
        habits = self.habits or Habits()
        room = self._room(slot) - before
        for start, stop, filled in self._cuts(before, tokens.shape[1], room, wanted.tolist()):
            logits = self.compute([slot], [before + start], tokens[:, start:stop], filled)[0]
            for i, position in enumerate(wanted.tolist()):
                if start <= position < stop:
                    out[i] = logits[-1] if habits.last_only else logits[position - start]

    def _cuts(
        self, before: int, n: int, room: int, wanted: list[int]
    ) -> Iterator[tuple[int, int, int]]:
        """First token, last one's end, and tokens with filling, of each run; pure."""
        habits, steps = self.habits or Habits(), self._buckets.lengths
        ends = sorted({position + 1 for position in wanted} | {n}) if habits.last_only else [n]
        start = 0
        for end in ends:
            while start < end:
                at_once = 1 if before + start and not habits.continues else end - start
                for taken, filled in pieces(at_once, room - start, steps, exact=habits.last_only):
                    yield start, start + taken, filled
                    start += taken

    def _groups(self, before: Sequence[int]) -> Iterator[list[int]]:
        """Which sequences decode together; slots that are read in place must be neighbours; pure."""
        order = range(len(before))
        longest_first = order if self._in_place else sorted(order, key=lambda i: -before[i])
        group: list[int] = []
        for i in longest_first:
            if group and not self._fits(group, before, i):
                yield group
                group = []
            group.append(i)
        yield group

    def _fits(self, group: list[int], before: Sequence[int], i: int) -> bool:
        pads = self.habits is not None and self.habits.pads
        if self._ports.alone or (not pads and before[i] != before[group[0]]):
            return False
        if len(group) == max(self._buckets.rows, default=len(group) + 1):
            return False
        if self._in_place:
            return True
        width = rounded(before[group[0]] + 1, self._buckets.widths)
        n_rows = rounded(len(group) + 1, self._buckets.rows)
        return n_rows * width <= SCRATCH_TOKENS

    # --- one run ---------------------------------------------------------------------------------

    def compute(
        self,
        slots: Sequence[int],
        before: Sequence[int],
        tokens: NDArray[np.int64],
        filled: int | None = None,
    ) -> F32:
        """See Computer; `filled`: tokens of each sequence with filling."""
        shape = self._shape(before, tokens.shape[1] if filled is None else filled)
        n, length = tokens.shape
        ids = np.zeros((shape.rows, shape.length), np.int64)
        ids[:n, :length] = tokens
        starts = np.zeros(shape.rows, np.int64)
        starts[:n] = before
        feeds = self._feeds(ids, starts, length, shape)
        logits = self._bound_run(feeds, slots, starts, length, shape)
        return logits[:n].astype(np.float32, copy=False)

    def _shape(self, before: Sequence[int], length: int) -> _Shape:
        widths = self._buckets.widths
        rows, longest = rounded(len(before), self._buckets.rows), max(before)
        if self._in_place:
            return _Shape(rows, length, 1, longest + length)
        if self._ports.keeps_rows:
            width = rounded(longest + length, widths) if widths else longest
            return _Shape(rows, length, width, width if widths else longest + length)
        width = rounded(longest, widths)
        return _Shape(rows, length, width, width + length)

    def _feeds(
        self, ids: NDArray[np.int64], starts: NDArray[np.int64], n_real: int, shape: _Shape
    ) -> dict[str, Array]:
        ports, length = self._ports, shape.length
        columns = np.arange(shape.total)
        if ports.keeps_rows:
            mask = columns < starts[:, None] + length
        else:
            mask = (columns < starts[:, None]) | (columns >= shape.width)
        # What fills has the last position that is real: tables of positions end with the context.
        positions = starts[:, None] + np.minimum(np.arange(length), n_real - 1)
        made: list[tuple[Fed | None, Array]] = [
            (ports.input_ids, ids),
            (ports.attention_mask, mask),
            (ports.position_ids, positions),
            (ports.use_cache_branch, np.array([shape.width > 0])),
        ]
        if ports.last_position is not None:
            last = starts + length - 1
            made.append((ports.last_position, last.reshape((-1,) + (1,) * (ports.last_position.rank - 1))))  # fmt: skip
        made += [(fed, np.full((1,) * fed.rank, shape.total)) for fed in ports.lengths]
        return {
            fed.name: np.ascontiguousarray(value, fed.dtype)
            for fed, value in made
            if fed is not None
        }

    def _bound_run(
        self,
        feeds: dict[str, Array],
        slots: Sequence[int],
        starts: NDArray[np.int64],
        n_real: int,
        shape: _Shape,
    ) -> Array:
        binding, past, present = self._memory(slots, starts, shape)
        for name, array in feeds.items():
            bind_input(binding, name, array)
        logits = self._run(binding, shape)
        if not self._in_place:
            self._keep(present, slots, starts, n_real, shape)
        del past  # until here: bindings know addresses only
        return logits

    def _run(self, binding: Any, shape: _Shape) -> Array:
        """Logits [rows, length or 1, n_vocab]; raises StepError."""
        ports, logits = self._ports, None
        if self.habits is None:
            binding.bind_output(ports.logits, "cpu")
        else:
            length = 1 if self.habits.last_only else shape.length
            logits = np.empty((shape.rows, length, ports.n_vocab), ports.logits_dtype)
            bind_output(binding, ports.logits, logits)
        try:
            self._session.run(binding)
        except RUN_ERRORS as error:
            raise StepError(f"ONNX Runtime: {error}") from error
        except MemoryError as error:
            raise BackendError("ONNX Runtime found no memory for a step") from error
        if logits is None:
            logits = binding.get_outputs()[-1].numpy()
            if logits.shape[::2] != (shape.rows, ports.n_vocab):
                raise BackendError(f"its {ports.logits} have the shape {logits.shape}")
        return logits

    def _memory(
        self, slots: Sequence[int], starts: NDArray[np.int64], shape: _Shape
    ) -> tuple[Any, Array | None, Array | None]:
        """A binding with keys and values, and what they are copied to and from:
        [layers, 2, rows, heads, places, head_dim]."""
        ports = self._ports
        if self._in_place:
            return self._bound_in_place(slots[0], len(slots)), None, None
        size = (len(ports.layers), 2, shape.rows, ports.n_kv_heads)
        past = np.zeros((*size, shape.width, ports.head_dim), ports.kv_dtype)
        places = max(shape.width, shape.total)
        present = np.empty((*size, places, ports.head_dim), ports.kv_dtype)
        binding = self._session.binding()
        for (i, which), name_in, name_out in self._layer_names():
            for row, slot in enumerate(slots):
                n = starts[row]
                past[i, which, row, :, :n] = self._slots.view(i, which, slot, 1)[0, :, :n]
            bind_input(binding, name_in, past[i, which])
            bind_output(binding, name_out, present[i, which])
        return binding, past, present

    def _bound_in_place(self, first: int, n: int) -> Any:
        """A binding of neighbouring slots, kept for the next step."""
        binding = self._bound.get((first, n))
        if binding is None:
            binding = self._bound[first, n] = self._session.binding()
            for (i, which), name_in, name_out in self._layer_names():
                view = self._slots.view(i, which, first, n)
                bind_input(binding, name_in, view)
                bind_output(binding, name_out, view)
            while len(self._bound) > BINDINGS_KEPT:
                self._bound.popitem(last=False)
        self._bound.move_to_end((first, n))
        return binding

    def _layer_names(self) -> Iterator[tuple[tuple[int, int], str, str]]:
        for i, layer in enumerate(self._ports.layers):
            for which in (0, 1):
                yield (i, which), layer.past[which], layer.present[which]

    def _keep(
        self,
        present: Array | None,
        slots: Sequence[int],
        starts: NDArray[np.int64],
        n_real: int,
        shape: _Shape,
    ) -> None:
        """Keys and values of the new tokens go to their slots."""
        assert present is not None  # what is not in place is copied
        for row, slot in enumerate(slots):
            start = int(starts[row])
            at = start if self._ports.keeps_rows else shape.width
            for (i, which), _, _ in self._layer_names():
                kept = present[i, which, row, :, at : at + n_real]
                self._slots.view(i, which, slot, 1)[0, :, start : start + n_real] = kept

    def _room(self, slot: int) -> int:
        """Tokens that a slot holds at most."""
        room: int = self._slots.view(0, 0, slot, 1).shape[2]
        return room
