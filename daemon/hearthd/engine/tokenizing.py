"""Tokenizing: tokens as hearthd asks for them, the same with every kind of engine."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_backends.base import Tokenizer
from hearthd import wire
from hearthd.engine.refused import Refused


class Tokenizing:
    """A part of every intake; thread-safe as the tokenizer is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def decode(self, frame: wire.Decode) -> wire.Decoded:
        """The text of tokens; raises Refused."""
        self.check_tokens(frame.rid, frame.tokens, "tokens")
        text = self.tokenizer.decode(frame.tokens, special=True)
        return wire.Decoded(rid=frame.rid, text=text.decode("utf-8", errors="replace"))

    def check_tokens(self, rid: int, tokens: Sequence[int], field: str) -> None:
        """Raise Refused where one is outside the vocabulary."""
        last = self.tokenizer.n_vocab - 1
        for i, token in enumerate(tokens):
            if not 0 <= token <= last:
                message = f"{field}[{i}]: token {token} is outside the vocabulary (0 to {last})"
                raise Refused(rid, "invalid_value", message, field)

    def _encoded(self, rid: int, tokens: list[int]) -> wire.Encoded:
        pieces = [self.tokenizer.piece(token, special=True) for token in tokens]
        return wire.Encoded(rid=rid, tokens=tokens, pieces=pieces)
