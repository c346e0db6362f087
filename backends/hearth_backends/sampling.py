"""The definition of sampling, and its implementation in NumPy.

Every backend samples by this text; a device kernel is tested against this module. All arithmetic on
logits is float32. For each wanted row, with raw logits l[0..V):

1. Adjust, in this order:
   bias          l[t] += b for each (t, b) of logit_bias;
   bans          l[t] = -inf for each banned t;
   mask          l[t] = -inf where the grammar's bit for t is clear;
   repetition    for each distinct t in prompt or output: l[t] /= r where l[t] > 0, else l[t] *= r;
   presence,     for each distinct t in the output, c times in it: l[t] -= presence + frequency * c.
   frequency
   Where nothing finite is left the bans are dropped; where still nothing is, or the largest logit is
   not a number, the row's token is -1, which no vocabulary holds: the caller must refuse it.
2. A row with a target takes the target: it is scored, not sampled (steps 3 to 5 are skipped).
3. Greedy, where temperature is 0: the largest logit, the lowest token of equal ones.
4. Otherwise filter; with m the largest logit, z[t] = (l[t] - m) / temperature is the log-probability
   relative to the top token. Each filter keeps the tokens with z at or above a threshold, so equal
   logits stay or go together:
   floor         l[t] >= m + temperature * ln(1e-6), always;
   top-k         z[t] >= the k-th largest z, where k > 0;
   top-p         the largest threshold whose tokens hold at least top_p of the probability of those
                 that are left, where top_p < 1;
   min-p         z[t] >= ln(min_p), where min_p > 0.
5. Draw: the token with the largest z[t] - ln E[t], the lowest of equal ones. E[t] is exponential noise
   that depends on (seed, output position, t) only:
       key  = mix64(mix64(seed + G) ^ (position * G)), G = 0x9E3779B97F4A7C15, modulo 2**64
       h    = mix32(mix32(t + 1) ^ low 32 bits of key), with the high 32 bits of key added after
              the first multiplication of the outer mix32 and its xor-shift
       v    = min(h * 2**-32 + 2**-33, 1 - 2**-24), in float32
       E[t] = -log1p(-v); a device may take v + v * v / 2 for v < 2**-12, and -log(1 - v) above
   mix64 is the finaliser of splitmix64: x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27;
       x *= 0x94D049BB133111EB; x ^= x >> 31
   mix32 is lowbias32: x ^= x >> 16; x *= 0x7FEB352D; x ^= x >> 15; x *= 0x846CA68B; x ^= x >> 16
   (So max z - ln E is the Gumbel-max rule, with noise that resolves tokens of any probability above
   the floor.)
6. Log-probabilities, where asked for, are the log-softmax of the raw logits: of the row's token, and
   of the n best (equal ones by lowest token).

A row's result depends on the row alone, to the last bit: not on who shares the batch, on chunks,
preemption or drafts.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32, Bools, Sampled, SamplingBatch, SamplingParams, TopLogprobs

U32: TypeAlias = NDArray[np.uint32]
Ids: TypeAlias = NDArray[np.int64]

FLOOR = 1e-6
"""Tokens less probable than this share of the top token's probability are never sampled."""

NO_TOKEN = -1
"""The token of a row that allows none."""

_LN_FLOOR = math.log(FLOOR)
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_C1, _C2 = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
_S15, _S16 = np.uint32(15), np.uint32(16)

_SPARSE = 12_288  # survivors up to which all of them get noise one by one
_PROBE = 4_096  # tokens that set the bar in a crowd
_NEAR = 4.0  # z within which a token counts as near the top
_SORTED = 2_048  # tokens that are sorted rather than counted into slices
_SLICES_PER_NAT = 64


def sample(logits: F32, batch: SamplingBatch) -> Sampled:
    """One token for each row of `logits` [k, n_vocab], which is left as it is.

    A row that allows no token gives NO_TOKEN.
    """
    if _all_greedy(batch):
        return Sampled(_greedy(logits))
    tokens = np.empty(len(batch), np.int32)
    for i, params in enumerate(batch.params):
        target = int(batch.targets[i])
        tokens[i] = target if target >= 0 else _sample_row(logits[i], batch, i, params)
    if all(params.n_logprobs is None for params in batch.params):
        return Sampled(tokens)
    return _scored(logits, batch.params, tokens)


def _all_greedy(batch: SamplingBatch) -> bool:
    """Whether every row is a bare argmax."""
    if batch.mask is not None or any(batch.banned):
        return False
    previous = None
    for params in batch.params:
        if params is not previous and not _is_plain_greedy(params):
            return False
        previous = params
    return bool((batch.targets < 0).all())


def _is_plain_greedy(params: SamplingParams) -> bool:
    return (
        params.temperature == 0.0
        and params.n_logprobs is None
        and not params.logit_bias
        and not params.penalises
    )


def _greedy(logits: F32) -> NDArray[np.int32]:
    tokens: NDArray[np.int32] = logits.argmax(axis=1).astype(np.int32)
    best = logits[np.arange(len(tokens)), tokens]
    tokens[~(best > -np.inf)] = NO_TOKEN  # also where it is not a number
    return tokens


def _sample_row(logits: F32, batch: SamplingBatch, i: int, params: SamplingParams) -> int:
    row = _adjusted(logits, batch, i, params)
    if params.temperature == 0.0:
        best = int(row.argmax())
        return best if row[best] > -np.inf else NO_TOKEN
    top = float(row.max())
    if not top > -np.inf or top == np.inf:
        return int(row.argmax()) if top == np.inf else NO_TOKEN
    return _Race(row, top, params, int(batch.positions[i])).run()


# --- step 1: adjust ----------------------------------------------------------------------------


def _adjusted(logits: F32, batch: SamplingBatch, i: int, params: SamplingParams) -> F32:
    """The row after bias, bans, mask and penalties; the row itself where there are none."""
    mask = None if batch.mask is None else _bits(batch.mask[i], logits.size)
    banned = batch.banned[i]
    if not banned:
        return _penalised(_masked(logits, mask, (), params), batch, i, params)
    row = _masked(logits, mask, banned, params)
    if not row.max() > -np.inf:
        row = _masked(logits, mask, (), params)
    return _penalised(row, batch, i, params)


def _bits(words: U32, n_vocab: int) -> Bools | None:
    """Which tokens a grammar allows; None: all."""
    if (words == np.uint32(0xFFFFFFFF)).all():
        return None
    bits = np.unpackbits(words.view(np.uint8), count=n_vocab, bitorder="little")
    return bits.view(np.bool_)


def _masked(
    logits: F32, mask: Bools | None, banned: tuple[int, ...], params: SamplingParams
) -> F32:
    if mask is None and not banned and not params.logit_bias:
        return logits
    row = logits.copy()
    for token, bias in params.logit_bias:
        row[token] += np.float32(bias)
    if banned:
        row[list(banned)] = -np.inf
    if mask is not None:
        row[~mask] = -np.inf
    return row


def _penalised(row: F32, batch: SamplingBatch, i: int, params: SamplingParams) -> F32:
    history = batch.history[i]
    if history is None or not params.penalises:
        return row
    row = row.copy()
    if params.repetition_penalty != 1.0:
        seen = np.unique(np.asarray(history, np.int64))
        value, factor = row[seen], np.float32(params.repetition_penalty)
        row[seen] = np.where(value > 0, value / factor, value * factor)
    if params.presence_penalty or params.frequency_penalty:
        output = np.asarray(history[batch.n_prompt[i] :], np.int64)
        seen, counts = np.unique(output, return_counts=True)
        weight = params.presence_penalty + params.frequency_penalty * counts
        row[seen] -= weight.astype(np.float32)
    return row


# --- steps 4 and 5: filter and draw ------------------------------------------------------------


class _Race:
    """One draw from a row: the tokens that pass the filters race, with exponential noise."""

    __slots__ = ("floor", "key", "params", "row", "temperature", "top")

    def __init__(self, row: F32, top: float, params: SamplingParams, position: int) -> None:
        self.row = row
        self.top = np.float32(top)
        self.temperature = np.float32(params.temperature)
        self.params = params
        self.floor = np.float32(top + params.temperature * _LN_FLOOR)
        self.key = noise_key(params.seed, position)

    def run(self) -> int:
        params = self.params
        passing = self.row >= self.floor
        crowded = np.count_nonzero(passing) > _SPARSE
        if crowded and 0 < params.top_k < self.row.size:
            ids = _at_least(self.row, max(self.floor, _kth_largest(self.row, params.top_k)))
        elif crowded and params.top_p >= 1.0 and params.min_p <= 0.0:
            return self._run_crowd()
        else:
            ids = np.flatnonzero(passing)
        z = self.z_of(ids)
        for threshold in self._thresholds:
            keep = z >= threshold(z)
            ids, z = ids[keep], z[keep]
        return self._winner(ids, z)[1]

    @property
    def _thresholds(self) -> list[Callable[[F32], np.float32]]:
        """The filters after the floor, in order, each as the lowest z that it keeps."""
        params = self.params
        filters: list[Callable[[F32], np.float32]] = []
        if params.top_k > 0:
            filters.append(lambda z: _kth_largest(z, min(params.top_k, z.size)))
        if params.top_p < 1.0:
            filters.append(lambda z: _nucleus_threshold(z, params.top_p))
        if params.min_p > 0.0:
            filters.append(lambda z: np.float32(math.log(params.min_p)))
        return filters

    def z_of(self, ids: Ids) -> F32:
        """Log-probabilities relative to the top token."""
        z: F32 = (self.row[ids] - self.top) / self.temperature
        return z

    def _winner(self, ids: Ids, z: F32) -> tuple[float, int]:
        """Best score and its token; ids ascend, so the first of equal scores is the lowest token."""
        scores = z - np.log(exponentials(noise(ids, self.key)))
        best = int(scores.argmax())
        return float(scores[best]), int(ids[best])

    def _run_crowd(self) -> int:
        """The same draw when very many tokens pass: most are seen to lose by their hash alone.

        Some tokens run first and set a bar. Any other wins only if z - ln E is above it; as
        z <= z_most and E >= v, its v must be below exp(z_most - bar).
        """
        near = self.row >= np.float32(float(self.top) - _NEAR * self.params.temperature)
        if np.count_nonzero(near) <= _PROBE:
            ids, z_most = np.flatnonzero(near), -_NEAR
        else:
            ids, z_most = np.flatnonzero(near[: 4 * _PROBE])[:_PROBE], 0.0
            if not ids.size:
                ids = np.flatnonzero(self.row == self.top)
        bar, token = self._winner(ids, self.z_of(ids))
        limit = math.exp(min(z_most - bar, 0.0)) * 1.0001 * 2.0**32
        ids = self._with_hash_below(np.uint32(min(limit, 0xFFFFFFFF)))
        ids = ids[self.row[ids] >= self.floor]
        if not ids.size:
            return token
        score, other = self._winner(ids, self.z_of(ids))
        return min(token, other) if score == bar else (other if score > bar else token)

    def _with_hash_below(self, limit: np.uint32) -> Ids:
        """Tokens whose noise hash is at most `limit`."""
        hashes, spare, below = _scratch.arrays(self.row.size)
        np.bitwise_xor(_scrambled_tokens(self.row.size), self.key[0], out=hashes)
        mix32(hashes, self.key[1], spare)
        return np.flatnonzero(np.less_equal(hashes, limit, out=below))


class _Scratch(threading.local):
    """Arrays as long as the vocabulary, kept for each thread: fresh ones cost more than the sums."""

    def __init__(self) -> None:
        self._arrays: tuple[U32, U32, Bools] | None = None

    def arrays(self, n: int) -> tuple[U32, U32, Bools]:
        if self._arrays is None or self._arrays[0].size != n:
            self._arrays = (np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(n, np.bool_))
        return self._arrays


_scratch = _Scratch()


def _at_least(row: F32, threshold: np.float32) -> Ids:
    return np.flatnonzero(row >= threshold)


def _kth_largest(row: F32, k: int) -> np.float32:
    """The k-th largest value, without ordering the whole row.

    The k-th largest of the groups' maxima is no larger than it, so what is below that need not be
    looked at.
    """
    n_groups = row.size // 64
    if n_groups >= 4 * k:
        maxima = row[: n_groups * 64].reshape(n_groups, 64).max(axis=1)
        row = row[row >= np.partition(maxima, n_groups - k)[n_groups - k]]
    return np.float32(np.partition(row, row.size - k)[row.size - k])


def _nucleus_threshold(z: F32, top_p: float) -> np.float32:
    """The largest z such that tokens at or above it hold at least top_p of all probability here."""
    p = np.exp(z).astype(np.float64)
    wanted = top_p * p.sum()
    held_above = 0.0
    if z.size > _SORTED:  # order only the slice of z in which the threshold lies
        slices = (z * np.float32(-_SLICES_PER_NAT)).astype(np.int32)
        held = np.bincount(slices, weights=p).cumsum()
        at = min(int(np.searchsorted(held, wanted)), held.size - 1)
        held_above = float(held[at - 1]) if at else 0.0
        z = z[slices == at]
    ordered = np.sort(z)[::-1]
    held = np.exp(ordered).astype(np.float64).cumsum() + held_above
    i = min(int(np.searchsorted(held, wanted)), ordered.size - 1)
    return np.float32(ordered[i])


# --- noise -------------------------------------------------------------------------------------


def noise_key(seed: int, position: int) -> tuple[np.uint32, np.uint32]:
    """The low and high half of the key of one draw."""
    key = _mix64(_mix64(seed + _GOLDEN) ^ (position * _GOLDEN & _MASK64))
    return np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)


def _mix64(x: int) -> int:
    x &= _MASK64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def mix32(x: U32, addend: np.uint32 | None = None, spare: U32 | None = None) -> U32:
    """A bijection on 32 bits (lowbias32), in place; `addend` joins after its first half."""
    shifted = np.right_shift(x, _S16, out=spare)
    x ^= shifted
    x *= _C1
    np.right_shift(x, _S15, out=shifted)
    x ^= shifted
    if addend is not None:
        x += addend
    x *= _C2
    np.right_shift(x, _S16, out=shifted)
    x ^= shifted
    return x


@lru_cache(maxsize=4)
def _scrambled_tokens(n_vocab: int) -> U32:
    """mix32(t + 1) of every token."""
    scrambled = mix32(np.arange(1, n_vocab + 1, dtype=np.uint32))
    scrambled.flags.writeable = False
    return scrambled


def noise(ids: Ids, key: tuple[np.uint32, np.uint32]) -> U32:
    """The hash of each token under a key."""
    return mix32(mix32((ids + 1).astype(np.uint32)) ^ key[0], key[1])


def exponentials(hashes: U32) -> F32:
    """Exponential noise of mean 1 from hashes."""
    v = hashes.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    np.minimum(v, np.float32(1.0 - 2.0**-24), out=v)
    e: F32 = -np.log1p(-v)
    return e


# --- step 6: log-probabilities -----------------------------------------------------------------


def _scored(logits: F32, params: Sequence[SamplingParams], tokens: NDArray[np.int32]) -> Sampled:
    logprobs = np.full(len(params), np.nan, np.float32)
    top: list[TopLogprobs | None] = [None] * len(params)
    for i, asked in enumerate(params):
        n_best = asked.n_logprobs
        if n_best is None:
            continue
        row = logits[i]
        normaliser = _log_sum_exp(row)
        if tokens[i] >= 0:
            logprobs[i] = row[tokens[i]] - normaliser
        if n_best > 0:
            top[i] = _best(row, min(n_best, row.size), normaliser)
    return Sampled(tokens, logprobs, tuple(top) if any(t is not None for t in top) else ())


def _log_sum_exp(row: F32) -> np.float32:
    top = row.max()
    return np.float32(float(top) + math.log(np.exp(row - top).sum(dtype=np.float64)))


def _best(row: F32, n: int, normaliser: np.float32) -> TopLogprobs:
    ids = _at_least(row, _kth_largest(row, n))
    ids = ids[np.argsort(-row[ids], kind="stable")][:n]
    return TopLogprobs(ids.astype(np.int32), row[ids] - normaliser)
