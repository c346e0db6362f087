"""The tokenizer of a GGUF model: llama.cpp's own, on a load of the vocabulary alone."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import replace

from hearth_backends.base import LoadedModel
from hearth_backends.encoder import Pair
from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.gguf.llama import Model, lib
from hearth_backends.weights.gguf_file import GgufFile

PIECE_BYTES = 64
"""A first guess of a piece's length; most are shorter."""


def open_gguf(path: str) -> LoadedModel:
    """Read a file's specification and load its vocabulary; raises ModelFileError, Unsupported."""
    spec = GgufFile(path).spec
    tokenizer = GgufTokenizer(path)
    if tokenizer.n_vocab != spec.n_vocab:
        raise ModelFileError(
            f"{path}: {tokenizer.n_vocab} tokens in the vocabulary, {spec.n_vocab} in the header"
        )
    if tokenizer.model_carries_state and spec.state is None:
        raise Unsupported(
            f"{path}: {spec.architecture} carries a state, and how large it is the file does not say"
        )
    told = replace(
        spec,
        state=spec.state if tokenizer.model_carries_state else None,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        end_ids=tokenizer.end_ids,
        add_bos=tokenizer.adds_bos,
    )
    return LoadedModel(told, tokenizer)


class GgufTokenizer:
    """A Tokenizer over llama.cpp's vocabulary; safe to use from several threads."""

    def __init__(self, path: str) -> None:
        """Load the vocabulary; raises ModelFileError."""
        model = Model(path, vocab_only=True)
        weakref.finalize(self, model.close)  # a Tokenizer has no end of its own
        self._vocab = model.vocab
        self.model_carries_state = model.carries_state
        self.n_vocab = model.n_vocab
        if self.n_vocab == 0:
            raise ModelFileError(f"{path}: it holds no vocabulary")
        self.bos_id = _token(lib.llama_vocab_bos(self._vocab))
        self.eos_id = _token(lib.llama_vocab_eos(self._vocab))
        self.adds_bos = bool(lib.llama_vocab_get_add_bos(self._vocab))
        separator = _token(lib.llama_vocab_sep(self._vocab))
        self._separator = separator if lib.llama_vocab_get_add_sep(self._vocab) else None
        self._terminator = self.eos_id if lib.llama_vocab_get_add_eos(self._vocab) else None
        if self._terminator is None and self.eos_id is None:
            self._terminator = self._separator
        self.end_ids = frozenset(
            token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, token)
        )
        # Threads may fill an entry twice, with the same bytes: no lock is needed.
        self._pieces: list[bytes | None] = [None] * self.n_vocab
        self._special_pieces: list[bytes | None] = [None] * self.n_vocab
        self._adds_space = self._puts_space_before_text()

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; what is not Unicode (lone surrogates) becomes a question mark."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            n = lib.llama_tokenize(
                self._vocab, data, len(data), tokens, room, add_special, parse_special
            )
            if n >= 0:
                return tokens[:n]
            room = -n

    @property
    def joins_pairs(self) -> bool:
        """Whether a text ends in a mark, or one stands between texts."""
        return self._terminator is not None or self._separator is not None

    def encode_pair(self, first: str, second: str, *, most: int | None = None) -> Pair:
        """BOS, text, end, separator, text, end: of these marks those that the vocabulary has.

        The end is that of a sentence, or else the separator, which then does not stand twice.
        """
        tail = [] if self._terminator is None else [self._terminator]
        head = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        head += self.encode(first, add_special=False, parse_special=False) + tail
        if self._separator is not None and tail != [self._separator]:
            head.append(self._separator)
        tokens = self.encode(second, add_special=False, parse_special=False)[:most]
        return Pair(head + tokens + tail, len(head), len(tokens))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; raises ValueError for a number that is no token."""
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"{token} is not one of {self.n_vocab} tokens")
        pieces = self._special_pieces if special else self._pieces
        piece = pieces[token]
        if piece is None:
            piece = pieces[token] = self._read_piece(token, special)
        return piece

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes of a whole text."""
        pieces = [self.piece(token, special=special) for token in tokens]
        if self._adds_space:
            for i, token in enumerate(tokens):
                if not lib.llama_vocab_is_control(self._vocab, token):
                    pieces[i] = pieces[i].removeprefix(b" ")
                    break
        return b"".join(pieces)

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def _puts_space_before_text(self) -> bool:
        """Whether this vocabulary puts a space before every text (SentencePiece does)."""
        first = self.encode("a", add_special=False, parse_special=False)[:1]
        return bool(first) and self.piece(first[0]).startswith(b" ")


def _token(number: int) -> int | None:
    return None if number < 0 else int(number)
