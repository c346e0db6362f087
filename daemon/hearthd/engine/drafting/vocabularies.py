"""Vocabularies: whether the tokens of two models stand for the same, and what differs where they do not."""

from __future__ import annotations

from typing import Protocol


class Pieces(Protocol):
    """What is compared of a tokenizer."""

    @property
    def n_vocab(self) -> int: ...

    def piece(self, token: int, *, special: bool = False) -> bytes: ...


def difference(ours: Pieces, theirs: Pieces) -> str | None:
    """What differs first, in words; None where every token that both have is the same.

    One may have more tokens than the other, as models padded to round numbers do, while they are no text.
    """
    n_both = min(ours.n_vocab, theirs.n_vocab)
    for token in range(n_both):
        mine, other = ours.piece(token, special=True), theirs.piece(token, special=True)
        if mine != other:
            return f"token {token} is {_shown(mine)} in one and {_shown(other)} in the other"
    larger = ours if ours.n_vocab > n_both else theirs
    for token in range(n_both, larger.n_vocab):
        if larger.piece(token):
            return (
                f"one has {n_both} tokens, the other {larger.n_vocab}, and token {token} of those "
                f"is {_shown(larger.piece(token))}"
            )
    return None


def _shown(piece: bytes) -> str:
    return repr(piece.decode("utf-8", "backslashreplace"))
