"""A model's vocabulary as the grammar engine wants it: the bytes of each token, and how text is cut into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hearth_backends.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_CONTROL = b"\xff"  # begins no UTF-8: llguidance's sign of a token that no text holds
_MARGIN = "\x02"  # stands before a text while it is cut, where a vocabulary puts a space there


def control_token(tokenizer: Tokenizer, text: str) -> int | None:
    """The token that a text is the name of, where it is a control token."""
    tokens = tokenizer.encode(text, add_special=False, parse_special=True)
    return tokens[0] if len(tokens) == 1 and not tokenizer.piece(tokens[0]) else None


class TokenizerForGrammars:
    """What llguidance's wrapper asks of a tokenizer, around ours."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._built: LLTokenizer | None = None
        self.eos_token_id = min(tokenizer.end_ids)
        self.bos_token_id = tokenizer.bos_id
        self.tokens: Sequence[bytes] = [self._bytes_of(i) for i in range(tokenizer.n_vocab)]
        self.special_token_ids = [
            i for i, piece in enumerate(self.tokens) if piece.startswith(_CONTROL)
        ]

    def build(self) -> LLTokenizer:
        """The vocabulary with its trie; takes about a second for 150,000 tokens."""
        from llguidance import LLTokenizer, TokenizerWrapper

        self._built = LLTokenizer(
            TokenizerWrapper(self),
            n_vocab=self._tokenizer.n_vocab,
            eos_token=sorted(self._tokenizer.end_ids),
        )
        self.tokens = ()  # it has its own copy
        return self._built

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens that spell a text, to the byte; as the model was taught to cut it, if that can be."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        try:
            plain = data.decode()
        except UnicodeDecodeError:
            return self._greedy(data)
        tokens = self._cut(plain)
        if self._spelled(tokens) == data:
            return tokens
        margin = self._cut(_MARGIN)
        tokens = self._cut(_MARGIN + plain)[len(margin) :]
        return tokens if self._spelled(tokens) == data else self._greedy(data)

    def _bytes_of(self, token: int) -> bytes:
        piece = b"" if token in self._tokenizer.end_ids else self._tokenizer.piece(token)
        return piece or self._named(token)

    def _named(self, token: int) -> bytes:
        return _CONTROL + (self._tokenizer.piece(token, special=True) or b"<[%d]>" % token)

    def _cut(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False, parse_special=False)

    def _spelled(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self._tokenizer.piece(token) for token in tokens)

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token at each place; nothing asks for that while the vocabulary is built."""
        if self._built is None:
            return []
        return list(self._built.greedy_tokenize(data.decode("utf-8", "replace")))
