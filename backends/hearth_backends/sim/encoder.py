"""SimEncoder: vectors and scores as hashes of tokens; texts that share many tokens are alike."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hearth_backends.encoder import Encoder, EncoderSpec, Vectors, check_batch, unit_length
from hearth_backends.sim.faults import Faults
from hearth_backends.sim.language import mix
from hearth_backends.sim.options import SimOptions

PLACE_WEIGHT = 0.1
"""Of what a vector says of the order of its tokens, against what it says of the tokens."""
_FRACTION = float(1 << 53)


class SimEncoder(Encoder):
    """Each text depends on its own tokens alone; faults and latency count batches as steps."""

    def __init__(self, spec: EncoderSpec, options: SimOptions) -> None:
        self.spec = spec
        self.dim = 1 if spec.task == "rerank" else options.dim
        self._options = options
        self._faults = Faults(options)

    def encode(
        self, token_lists: Sequence[Sequence[int]], seconds: Sequence[int | None] = ()
    ) -> Vectors:
        """See Encoder."""
        check_batch(self.spec, token_lists, self._options.vocab)
        self._faults.before()
        if self._options.latency_ms:
            time.sleep(self._options.latency_ms / 1000)
        if self.spec.task == "embed":
            found = np.stack([self.vector(tokens) for tokens in token_lists])
        else:
            splits = list(seconds) + [None] * (len(token_lists) - len(seconds))
            pairs = zip(token_lists, splits, strict=True)
            found = np.array([[self.relevance(tokens, split)] for tokens, split in pairs])
        self._faults.after()
        return found.astype(np.float32)

    def vector(self, tokens: Sequence[int]) -> Vectors:
        """Of a text: the mean of its tokens' own vectors, and a little of where they stand."""
        ids = np.asarray(tokens, np.uint64)
        places = mix(ids + (np.arange(len(ids), dtype=np.uint64) << np.uint64(32)))
        parts = self._noise(ids) + PLACE_WEIGHT * self._noise(places)
        return unit_length(parts.mean(axis=0).astype(np.float32))

    def relevance(self, tokens: Sequence[int], second: int | None) -> float:
        """Of a pair: how alike its two texts are, between 0 and 1."""
        split = len(tokens) // 2 if second is None else second
        if not 0 < split < len(tokens):
            return 0.0
        cosine = float(self.vector(tokens[:split]) @ self.vector(tokens[split:]))
        return min(1.0, max(0.0, (1 + cosine) / 2))

    def close(self) -> None:
        """See Encoder."""

    def _noise(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """[n, dim] numbers in [-1, 1)."""
        seed = np.uint64(self._options.seed % (1 << 32))
        columns = mix(np.arange(self._options.dim, dtype=np.uint64) ^ (seed << np.uint64(20)))
        bits = mix(mix(keys)[:, None] ^ columns[None, :])
        return (bits >> np.uint64(11)).astype(np.float64) * (2 / _FRACTION) - 1
