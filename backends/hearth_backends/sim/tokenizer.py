"""ByteTokenizer: one token for each byte, and a few control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hearth_backends.encoder import Pair

BOS, IM_END, IM_START, END_OF_TEXT = 256, 257, 258, 259
CONTROL = {
    "<|bos|>": BOS,
    "<|im_end|>": IM_END,
    "<|im_start|>": IM_START,
    "<|endoftext|>": END_OF_TEXT,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CONTROL_TEXT = re.compile("(" + "|".join(map(re.escape, CONTROL)) + ")")


class ByteTokenizer:
    """Tokens 0 to 255 are bytes, the next four are control tokens, the rest stand for nothing."""

    def __init__(self, n_vocab: int, *, add_bos: bool) -> None:
        self._add_bos = add_bos
        self._special = {token: text.encode() for text, token in CONTROL.items()}
        self._special |= {token: b"<|unused%d|>" % token for token in range(260, n_vocab)}
        self.n_vocab = n_vocab
        self.bos_id = BOS if add_bos else None
        self.eos_id = IM_END
        self.end_ids = frozenset((IM_END, END_OF_TEXT))

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """The bytes of a text in UTF-8; control tokens only where `parse_special`."""
        tokens = [BOS] if add_special and self._add_bos else []
        if not parse_special:
            return tokens + list(text.encode())
        for part in _CONTROL_TEXT.split(text):
            tokens += [CONTROL[part]] if part in CONTROL else list(part.encode())
        return tokens

    @property
    def joins_pairs(self) -> bool:
        """Always."""
        return True

    def encode_pair(self, first: str, second: str, *, most: int | None = None) -> Pair:
        """BOS where there is one, both texts, and IM_END after each."""
        head = [*([BOS] if self._add_bos else ()), *first.encode(), IM_END]
        tokens = list(second.encode())[:most]
        return Pair([*head, *tokens, IM_END], len(head), len(tokens))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The byte of a token; control tokens are empty unless `special`."""
        if token < 256:
            return bytes((token,))
        return self._special[token] if special else b""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes of a whole text."""
        return b"".join(self.piece(token, special=special) for token in tokens)
