"""RandomModel: a model without any sense, which only its grammar keeps in bounds."""

from __future__ import annotations

import numpy as np

from hearth_backends.base import Tokenizer
from hearthd.engine.grammar import Grammar

AWKWARD = b'"\\{}[]:,.eE+-0123456789 \n\tu/' + "é😀٣".encode()
"""Bytes that JSON is easily broken with: a random model says them more often."""


class RandomModel:
    """Logits from a seed; tokens that begin with an awkward byte are favoured, and so is an end."""

    def __init__(
        self, tokenizer: Tokenizer, seed: int, *, awkward: float = 1.0, end: float = 1.5
    ) -> None:
        self._tokenizer = tokenizer
        self._random = np.random.default_rng(seed)
        self._bias = np.zeros(tokenizer.n_vocab, np.float32)
        for token in range(tokenizer.n_vocab):
            if tokenizer.piece(token)[:1] in {bytes((byte,)) for byte in AWKWARD}:
                self._bias[token] = awkward
        self._bias[list(tokenizer.end_ids)] = end

    def logits(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Of the next token, whatever came before."""
        noise = self._random.gumbel(size=self._bias.size).astype(np.float32)
        return self._bias + noise

    def complete(self, grammar: Grammar, max_tokens: int) -> tuple[str, bool]:
        """A text under a grammar, and whether it came to its end."""
        data = bytearray()
        row = np.zeros(-(-self._tokenizer.n_vocab // 32), np.uint32)
        for _ in range(max_tokens):
            grammar.mask(row)
            allowed = np.unpackbits(row.view(np.uint8), bitorder="little")[: self._bias.size]
            assert allowed.any(), f"nothing may come: {grammar.error}"
            token = int(np.where(allowed, self.logits(), -np.inf).argmax())
            if token in self._tokenizer.end_ids:
                assert grammar.is_complete
                return data.decode(), True
            assert grammar.accept(token)
            data += self._tokenizer.piece(token)
            if grammar.is_over:
                return data.decode(), True
        return data.decode(errors="replace"), False
