"""Sampler: tokens from logits on the device, by the written definition in `hearth_backends.sampling`.

Steps 1 and 6 of the definition are a few operations of torch on what the rows ask for; the draw itself
is a kernel. Nothing here waits for the device: a result is on its way to the host until its event is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hearth_backends.base import I32, Sampled, SamplingBatch, SamplingParams, TopLogprobs
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Draws, Kernels
from hearth_backends.cuda.transfer import to_device, to_host

F32Array = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPARE = 8  # tokens beyond those asked for, among which equal ones are put in order


LOGITS = "logits"
"""The kind of a step whose samples are drawn outside of it."""


@dataclass(frozen=True, slots=True)
class PlainDraws:
    """How the k rows of a decode step are drawn where nothing is to be adjusted or told, as integers."""

    arrays: tuple[I32, ...]  # none where every row is an argmax; see `_parameters`

    @property
    def kind(self) -> str:
        """Steps of one kind are recorded together."""
        return "drawn" if self.arrays else "argmax"

    def padded(self, n: int) -> tuple[I32, ...]:
        """With rows up to n whose draw is nobody's."""
        return tuple(
            np.pad(array, ((0, n - len(array)), *((0, 0),) * (array.ndim - 1)))
            for array in self.arrays
        )


def plain_draws(batch: SamplingBatch) -> PlainDraws | None:
    """The draws of a batch; None where rows want more than that."""
    if batch.mask is not None or any(batch.banned) or (batch.targets >= 0).any():
        return None
    if any(p.logit_bias or p.penalises or p.n_logprobs is not None for p in batch.params):
        return None
    if all(p.temperature == 0.0 for p in batch.params):
        return PlainDraws(())
    return PlainDraws(_parameters(batch))


def nobodys_draws(kind: str, n: int) -> PlainDraws:
    """Of n rows that are nobody's, in a step of that kind."""
    nothing = PlainDraws(())
    if kind == nothing.kind:
        return nothing
    return PlainDraws(tuple(np.zeros((n, *shape), np.int32) for shape in ((3,), (), (2,))))


def drawn(logits: Tensor, parts: Sequence[Tensor], kernels: Kernels) -> Tensor:
    """Tokens [k] from logits as they are; `parts` are the arrays of PlainDraws on the device."""
    return kernels.draw(logits, _draws(parts)) if parts else _argmax(logits)


def _parameters(batch: SamplingBatch) -> tuple[I32, ...]:
    """Temperature, top-p and min-p as bits [k, 3]; top-k [k]; keys [k, 2]."""
    params = batch.params
    floats = np.array([(p.temperature, p.top_p, p.min_p) for p in params], np.float32)
    top_k = np.array([p.top_k for p in params], np.int32)
    return floats.view(np.int32), top_k, noise_keys([p.seed for p in params], batch.positions)


def _draws(parts: Sequence[Tensor]) -> Draws:
    bits, top_k, keys = parts
    temperature, top_p, min_p = bits.view(torch.float32).T.contiguous().unbind(0)
    return Draws(temperature, top_k, top_p, min_p, keys)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a step sampled, on the host once its event is done."""

    tokens: Tensor  # [k]
    logprobs: Tensor | None = None  # [k]
    best: tuple[Tensor, Tensor] | None = None  # tokens and log-probabilities [k, m], best first
    n_best: tuple[int | None, ...] = ()  # k; as SamplingParams.n_logprobs

    def sampled(self) -> Sampled:
        """As the contract returns it."""
        tokens: I32 = self.tokens.numpy()
        if self.logprobs is None:
            return Sampled(tokens)
        asked = np.array([n is not None for n in self.n_best])
        logprobs = np.where(asked & (tokens >= 0), self.logprobs.numpy(), np.float32(np.nan))
        if self.best is None:
            return Sampled(tokens, logprobs)
        ids, values = (part.numpy() for part in self.best)
        top = tuple(
            _in_order(ids[i], values[i], n) if n else None for i, n in enumerate(self.n_best)
        )
        return Sampled(tokens, logprobs, top)


def _in_order(ids: I32, logprobs: F32Array, n: int) -> TopLogprobs:
    """The n best; equal ones by lowest token."""
    order = np.lexsort((ids, -logprobs))[:n]
    return TopLogprobs(ids[order].astype(np.int32), logprobs[order])


class Sampler:
    """Samples where the logits are."""

    def __init__(self, device: Accelerator, kernels: Kernels) -> None:
        self._device = device
        self._kernels = kernels

    def draw(self, logits: Tensor, batch: SamplingBatch, last: Tensor, places: I32) -> Drawn:
        """One token for each row of logits [k, n_vocab], which may be changed; each also goes to its place in `last`."""
        most = max((p.n_logprobs for p in batch.params if p.n_logprobs is not None), default=None)
        raw = None if most is None else logits.log_softmax(dim=1)
        if _is_bare_argmax(batch):
            tokens = _argmax(logits)
        else:
            draws = _draws(to_device(_parameters(batch), self._device))
            tokens = self._kernels.draw(self._adjusted(logits, batch), draws)
        sent_targets, where = to_device((batch.targets, places), self._device)
        tokens = torch.where(sent_targets >= 0, sent_targets, tokens)
        last.index_copy_(0, where.long(), tokens)
        scored = best = None
        if raw is not None:
            of_tokens = raw.gather(1, tokens.long().clamp_min(0)[:, None])[:, 0]
            scored = to_host(of_tokens, self._device)
            best = self._best(raw, most)
        return Drawn(
            to_host(tokens, self._device), scored, best, tuple(p.n_logprobs for p in batch.params)
        )

    def _best(self, raw: Tensor, most: int | None) -> tuple[Tensor, Tensor] | None:
        """The best tokens of each row, and all that equal the last of them as far as a few more go."""
        if not most:
            return None
        values, ids = raw.topk(min(most + _SPARE, raw.shape[1]), dim=1)
        return to_host(ids.to(torch.int32), self._device), to_host(values, self._device)

    # --- step 1: adjust ------------------------------------------------------------------------

    def _adjusted(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        logits = logits.clone()
        self._add_bias(logits, batch.params)
        allowed = self._masked(logits, batch)
        if any(batch.banned):
            places = _ragged(batch.banned)
            rows, tokens = to_device(places, self._device)
            nothing = torch.full((), -torch.inf, device=logits.device)
            banned = allowed.index_put((rows.long(), tokens.long()), nothing)
            finite = (banned > -torch.inf).any(dim=1, keepdim=True)
            allowed = torch.where(finite, banned, allowed)
        if any(p.penalises for p in batch.params):
            self._penalise(allowed, batch)
        return allowed

    def _add_bias(self, logits: Tensor, params: Sequence[SamplingParams]) -> None:
        if not any(p.logit_bias for p in params):
            return
        rows, tokens = _ragged([[token for token, _ in p.logit_bias] for p in params])
        bias = np.array([value for p in params for _, value in p.logit_bias], np.float32)
        at, which, bits = to_device((rows, tokens, bias.view(np.int32)), self._device)
        logits.index_put_((at.long(), which.long()), bits.view(torch.float32), accumulate=True)

    def _masked(self, logits: Tensor, batch: SamplingBatch) -> Tensor:
        if batch.mask is None:
            return logits
        (words,) = to_device((batch.mask.view(np.int32),), self._device)
        places = torch.arange(32, dtype=torch.int32, device=words.device)
        bits = (words[:, :, None] >> places) & 1
        return logits.masked_fill(bits.flatten(1)[:, : logits.shape[1]] == 0, -torch.inf)

    def _penalise(self, logits: Tensor, batch: SamplingBatch) -> None:
        """In place, each token that a row has seen once."""
        rows, tokens, weights = _penalties(batch)
        at, which, bits = to_device((rows, tokens, weights.view(np.int32)), self._device)
        at, which = at.long(), which.long()
        factor, minus = bits.view(torch.float32).unbind(0)
        values = logits[at, which]
        values = torch.where(values > 0, values / factor, values * factor) - minus
        logits.index_put_((at, which), values)


def _is_bare_argmax(batch: SamplingBatch) -> bool:
    """Whether no row needs more than its largest logit."""
    if batch.mask is not None or any(batch.banned):
        return False
    return all(p.temperature == 0.0 and not p.logit_bias and not p.penalises for p in batch.params)


def _argmax(logits: Tensor) -> Tensor:
    best, tokens = logits.max(dim=1)
    return torch.where(best > -torch.inf, tokens, -1).to(torch.int32)


def _ragged(lists: Sequence[Sequence[int]]) -> tuple[I32, I32]:
    """Row and value of each element."""
    rows = np.repeat(np.arange(len(lists), dtype=np.int32), [len(values) for values in lists])
    return rows, np.array([value for values in lists for value in values], np.int32)


def _penalties(batch: SamplingBatch) -> tuple[I32, I32, F32Array]:
    """Rows and tokens [m] that are penalised; what each is divided by, and what is taken off, [2, m]."""
    rows: list[I32] = []
    tokens: list[I32] = []
    weights: list[F32Array] = []
    for i, (params, history) in enumerate(zip(batch.params, batch.history, strict=True)):
        if history is None or not params.penalises or batch.targets[i] >= 0:
            continue
        said = np.asarray(history, np.int32)
        seen = np.unique(said)
        output, counts = np.unique(said[batch.n_prompt[i] :], return_counts=True)
        minus = np.zeros(len(seen), np.float32)
        minus[np.searchsorted(seen, output)] = (
            params.presence_penalty + params.frequency_penalty * counts
        )
        rows.append(np.full(len(seen), i, np.int32))
        tokens.append(seen)
        weights.append(np.stack([np.full(len(seen), params.repetition_penalty, np.float32), minus]))
    if not rows:
        nothing = np.zeros(0, np.int32)
        return nothing, nothing, np.zeros((2, 0), np.float32)
    return np.concatenate(rows), np.concatenate(tokens), np.concatenate(weights, axis=1)


def noise_keys(seeds: Sequence[int], positions: NDArray[np.int64]) -> I32:
    """Bits of `hearth_backends.sampling.noise_key` of each draw [k, 2], low half first."""
    with np.errstate(over="ignore"):
        key = _mix64(np.array(seeds, np.uint64) + _GOLDEN)
        key = _mix64(key ^ (positions.astype(np.uint64) * _GOLDEN))
    halves = np.stack([key & np.uint64(0xFFFFFFFF), key >> np.uint64(32)], axis=1)
    return halves.astype(np.uint32).view(np.int32)


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
