"""SimLanguage: the function that the simulated model computes, as hashes of 64 bits.

Layer l keeps one entry of each position: entry = mix(x ^ key_l). What a layer reads at position p is
the sum over all positions q <= p of entry_q ^ (q + 1) G, so that an entry that is missing, stale or
out of place changes every logit after it. The sum can be formed from entries (blocks, slots, cells)
and carried on as a state (states), with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32, I32, SamplingBatch, SamplingParams
from hearth_backends.sampling import sample
from hearth_backends.sim.options import SimOptions
from hearth_backends.sim.tokenizer import BOS, END_OF_TEXT, IM_END, IM_START

U64: TypeAlias = NDArray[np.uint64]

_PLACE = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_MASK = (1 << 64) - 1

LOGIT_RANGE = 8.0
"""Logits of ordinary text lie in [0, LOGIT_RANGE)."""
NOT_TEXT = -30.0
"""Added to the logits of tokens that are no printable text."""
RARE_END = -0.05
"""Added to the logit of the end token: about one greedy token in 200 ends a text."""
SPACE = 0.5
"""Added to the logit of a space: words come out some ten letters long."""
SAID = 40.0
"""Added to the logit of the token that an echo says next."""


def mix(x: U64) -> U64:
    """Scramble 64 bits (the finaliser of splitmix64); arrays only, scalars would warn of overflow."""
    x = (x ^ (x >> _SHIFTS[0])) * _MULTIPLIER_1
    x = (x ^ (x >> _SHIFTS[1])) * _MULTIPLIER_2
    return x ^ (x >> _SHIFTS[2])


def placed(entries: U64, positions: NDArray[np.integer]) -> U64:
    """Entries as they count at their positions; summed up they are what a layer reads."""
    return entries ^ ((positions + 1).astype(np.uint64) * _PLACE)


def adapter_shift(adapter: str) -> np.uint64:
    """What an adapter does to hidden states before each layer: they are XORed with it; "" does nothing."""
    digest = blake2b(adapter.encode(), digest_size=8).digest() if adapter else bytes(8)
    return np.uint64(int.from_bytes(digest, "little"))


class SimLanguage:
    """Embedding, layers and head as pure functions of arrays; no key-value memory."""

    def __init__(self, options: SimOptions, adapter: str = "") -> None:
        """`adapter`: the path of the LoRA adapter that applies in the oracle; stages tell rows apart."""
        self.options = options
        self.shift = adapter_shift(adapter)
        salt = np.arange(2 * options.layers + 3, dtype=np.uint64)
        salts = mix(mix(salt + np.uint64(1)) ^ np.uint64(options.seed & _MASK))
        self._keys = salts[: options.layers]
        self._layers = salts[options.layers : 2 * options.layers]
        self._embedding, self._head, vocabulary = salts[-3:]
        self._vocabulary = mix(np.arange(options.vocab, dtype=np.uint64) ^ vocabulary)
        self._bias = _bias(options.vocab)

    def embed(self, tokens: NDArray[np.integer]) -> U64:
        """[n] tokens to [n] hidden states."""
        return mix(tokens.astype(np.uint64) ^ self._embedding)

    def entry(self, layer: int, x: U64) -> U64:
        """What a layer keeps of hidden states in its key-value memory."""
        return mix(x ^ self._keys[layer])

    def layer(self, layer: int, x: U64, read: U64) -> U64:
        """Hidden states after a layer that read `read` from its key-value memory."""
        return mix(x ^ self._layers[layer] ^ mix(read))

    def logits(self, x: U64, said: Sequence[int | None]) -> F32:
        """[k] last hidden states to logits [k, n_vocab]; `said`: the token an echo says next."""
        bits = mix(mix(x ^ self._head)[:, None] ^ self._vocabulary[None, :])
        logits: F32 = (bits >> np.uint64(40)).astype(np.float32)
        logits *= np.float32(LOGIT_RANGE / (1 << 24))
        logits += self._bias
        for row, token in enumerate(said):
            if token is not None:
                logits[row, token] += np.float32(SAID)
        return logits

    def says_next(self, history: I32) -> int | None:
        """The token an echo says after `history`; None where the model only makes noise."""
        return _echo(history) if self.options.says == "echo" else None


def _bias(n_vocab: int) -> F32:
    bias = np.full(n_vocab, NOT_TEXT, np.float32)
    bias[32:127] = 0.0
    bias[ord(" ")] = SPACE
    bias[IM_END] = RARE_END
    return bias


def _echo(history: I32) -> int:
    """Repeat the last user message of a chat, or the first line of a text, then end."""
    tokens: list[int] = history.tolist()
    starts = [i for i, token in enumerate(tokens) if token == IM_START]
    if starts:
        return _nth(_last_user_message(tokens, starts), _after_line(tokens, starts[-1]))
    text = [token for token in tokens if token != BOS]
    if ord("\n") not in text:
        return ord("\n")
    return _nth(text[: text.index(ord("\n"))], len(text) - text.index(ord("\n")) - 1)


def _last_user_message(tokens: list[int], starts: list[int]) -> list[int]:
    user = list(b"user\n")
    for start in reversed(starts):
        begin = start + 1 + len(user)
        if tokens[start + 1 : begin] == user and IM_END in tokens[begin:]:
            return tokens[begin : tokens.index(IM_END, begin)]
    return []


def _after_line(tokens: list[int], start: int) -> int:
    """How many tokens stand after the line that begins at `start`."""
    if ord("\n") not in tokens[start:]:
        return 0
    return len(tokens) - tokens.index(ord("\n"), start) - 1


def _nth(text: list[int], n: int) -> int:
    return text[n] if n < len(text) else IM_END


# --- the oracle ----------------------------------------------------------------------------------


def _last_states(language: SimLanguage, ids: I32) -> U64:
    """Hidden states after the last layer, from nothing but the tokens."""
    positions = np.arange(len(ids))
    x = language.embed(ids)
    for layer in range(language.options.layers):
        x = x ^ language.shift
        read = np.cumsum(placed(language.entry(layer, x), positions), dtype=np.uint64)
        x = language.layer(layer, x, read)
    return x


def oracle_logits(language: SimLanguage, tokens: Sequence[int]) -> F32:
    """Logits [n, n_vocab] after each of n tokens."""
    ids = np.array(tokens, np.int32)
    said = [language.says_next(ids[: i + 1]) for i in range(len(ids))]
    return language.logits(_last_states(language, ids), said)


def _next_logits(language: SimLanguage, tokens: Sequence[int]) -> F32:
    """Logits [1, n_vocab] after the last of the tokens."""
    ids = np.array(tokens, np.int32)
    return language.logits(_last_states(language, ids)[-1:], [language.says_next(ids)])


def oracle(
    language: SimLanguage,
    tokens: Sequence[int],
    params: SamplingParams,
    n: int,
    *,
    end_ids: frozenset[int] = frozenset((IM_END, END_OF_TEXT)),
    min_output: int = 0,
    mask: NDArray[np.uint32] | None = None,
) -> list[int]:
    """The n tokens at most that a request must get for a prompt, its end token included.

    `mask` [1, ceil(n_vocab / 32)]: the tokens that are allowed, at every position.
    """
    output: list[int] = []
    history = list(tokens)
    while len(output) < n:
        banned = tuple(sorted(end_ids)) if len(output) < min_output else ()
        batch = SamplingBatch(
            params=(params,),
            positions=np.array([len(output)], np.int64),
            targets=np.array([-1], np.int32),
            history=(history,),
            n_prompt=(len(tokens),),
            banned=(banned,),
            mask=mask,
        )
        token = int(sample(_next_logits(language, history), batch).tokens[0])
        output.append(token)
        history.append(token)
        if token in end_ids:
            break
    return output
