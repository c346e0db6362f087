"""Runner: one step of a stage on its device, from arrays of the host to logits or hidden states there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from hearth_backends.base import I32, Hidden
from hearth_backends.cuda.decoder import Decoder, Weights
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.graphs import Graphs
from hearth_backends.cuda.kernels.contract import Kernels
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.rows import (
    N_ROWS_ARRAYS,
    SEATS,
    HostRows,
    Rows,
    nobodys_step,
)
from hearth_backends.cuda.sampler import LOGITS, PlainDraws, drawn, nobodys_draws
from hearth_backends.cuda.transfer import as_tensor, to_device, to_device_flat, views
from hearth_backends.errors import BackendError


class Runner:
    """Launches and does not wait: whatever it returns is a tensor that will be there in order."""

    def __init__(
        self,
        decoder: Decoder,
        pool: KVPool,
        rows: Rows,
        kernels: Kernels,
        device: Accelerator,
        dtype: torch.dtype,
    ) -> None:
        self.pool = pool
        self.rows = rows
        self.device = device
        self._decoder = decoder
        self._kernels = kernels
        self._dtype = dtype
        self._graphs: Graphs | None = None
        if decoder.weights.embedding is not None:
            self._graphs = Graphs(device, most=rows.null_row)

    @property
    def weights(self) -> Weights:
        return self._decoder.weights

    def run(self, host: HostRows, x: Hidden | None, kind: str = LOGITS) -> Tensor:
        """Logits [k, n_vocab] of the wanted rows in float32, or hidden states [n, d_model].

        They are overwritten by the next step. `kind`: what the first device of a group makes of it.
        """
        self._change_tables(host)
        size = self._recorded_size(host)
        if size is not None:
            return self._decode(host, size, kind)[: len(host.tokens)]
        return self._mixed(host, x)

    def can_sample(self, host: HostRows) -> bool:
        """Whether `sample` takes such a step."""
        return self.weights.head is not None and self._recorded_size(host) is not None

    def sample(self, host: HostRows, draws: PlainDraws) -> Tensor:
        """One token for each row [n], which is its last sample from now on; overwritten by the next step."""
        self._change_tables(host)
        size = self._recorded_size(host)
        assert size is not None
        return self._decode(host, size, draws.kind, draws.padded(size))[: len(host.tokens)]

    def _change_tables(self, host: HostRows) -> None:
        if len(host.changes):
            self.rows.apply(to_device((host.changes,), self.device)[0])

    def _recorded_size(self, host: HostRows) -> int | None:
        """Sequences of the recorded step that this one fits into, if one row of each is wanted."""
        is_wanted = self.weights.head is None or len(host.wanted) == len(host.tokens)
        if self._graphs is None or not host.is_decode or not is_wanted:
            return None
        return self._graphs.size_for(len(host.tokens))

    def rehearse(self) -> bool:
        """Compute a step of nobody, of a size and kind that is to be recorded; whether there is more to record.

        As any step it counts as a use, so that a few of them record it, on all devices of a group alike.
        """
        key = None if self._graphs is None else self._graphs.unrecorded()
        if self._graphs is None or key is None:
            return False
        size, kind = key
        if kind == LOGITS:
            self.run(nobodys_step(size, self.rows.null_row), None)
        else:
            self.sample(nobodys_step(size, self.rows.null_row), nobodys_draws(kind, size))
        return self._graphs.unrecorded() is not None

    def share_samples(self) -> None:
        """The last samples have changed; alone, there is nobody to tell."""

    def read(self, blocks: Sequence[int], n_tokens: int) -> bytes:
        """See KVPool."""
        return self.pool.read(blocks, n_tokens)

    def write(self, blocks: Sequence[int], state: bytes, n_tokens: int) -> None:
        """See KVPool."""
        self.pool.write(blocks, state, n_tokens)

    def token_bytes(self) -> int:
        """See KVPool."""
        return self.pool.token_bytes()

    @property
    def is_group(self) -> bool:
        """Whether other devices compute the same layers, and cannot be left in the middle of a step."""
        return False

    def close(self) -> None:
        """Forget recorded steps."""
        if self._graphs is not None:
            self._graphs.close()

    def _mixed(self, host: HostRows, x: Hidden | None) -> Tensor:
        arrays = host.arrays()
        flat = to_device_flat(arrays, self.device)
        n_columns = -(-int(host.lengths.max()) // self.pool.shape[1])
        return self._compute(views(flat, arrays), n_columns, self._entering(len(host.tokens), x))

    def _entering(self, n: int, x: Hidden | None) -> Tensor | None:
        """Hidden states that a stage without embedding was given."""
        if self._decoder.weights.embedding is not None:
            return None
        if x is None or x.shape[0] != n:
            raise BackendError("a stage without embedding was given no hidden states")
        hidden = as_tensor(x)
        if not self.device.is_cpu:
            hidden = hidden.pin_memory()
        return hidden.to(self.device.torch, self._dtype, non_blocking=True)

    def _decode(self, host: HostRows, size: int, kind: str, draws: tuple[I32, ...] = ()) -> Tensor:
        """One row of each sequence, all wanted, in a step of a fixed size."""
        assert self._graphs is not None
        arrays = (*host.padded(size, self.rows.null_row).arrays(), *draws)
        flat = to_device_flat(arrays, self.device)
        compute = partial(self._compute_flat, arrays, kind)
        graph = self._graphs.get(size, kind, compute, flat, self.rows.last)
        return compute(flat) if graph is None else graph(flat)

    def _compute_flat(self, like: tuple[I32, ...], kind: str, flat: Tensor) -> Tensor:
        parts = views(flat, like)
        out = self._compute(parts[:N_ROWS_ARRAYS], self.rows.n_columns, None)
        if kind == LOGITS or self.weights.head is None:
            return out
        tokens = drawn(out, parts[N_ROWS_ARRAYS:], self._kernels)
        self.rows.last.index_copy_(0, parts[SEATS].long(), tokens)
        return tokens

    def _compute(self, parts: tuple[Tensor, ...], n_columns: int, x: Tensor | None) -> Tensor:
        tokens, row_starts, lengths, seats, wanted = parts
        tables, last = self.rows.tables, self.rows.last
        rows = self._kernels.prepare(tokens, row_starts, lengths, seats, tables, last, n_columns)
        entering = self._decoder.embed(rows.tokens) if x is None else x
        x = self._decoder.layers(entering, rows, self.pool)
        if self._decoder.weights.head is None:
            return x
        return self._decoder.head(x.index_select(0, wanted))
