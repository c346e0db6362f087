"""The tokenizer of a checkpoint: its tokenizer.json through `tokenizers`, exact in bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearth_backends.base import LoadedModel
from hearth_backends.errors import ModelFileError
from hearth_backends.weights.checkpoint import Checkpoint, with_tokens
from hearth_backends.weights.json_file import read_table

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "▁"


def open_checkpoint(folder: str) -> LoadedModel:
    """Read a folder's specification and tokenizer; raises ModelFileError, Unsupported."""
    path = Path(folder)
    spec = Checkpoint(path).spec
    tokenizer = CheckpointTokenizer(
        path / "tokenizer.json",
        n_vocab=spec.n_vocab,
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
        end_ids=spec.end_ids,
    )
    told = with_tokens(
        spec,
        chat_template=chat_template_of(path),
        add_bos=tokenizer.adds_bos,
        end_ids=tokenizer.end_ids,
    )
    return LoadedModel(told, tokenizer)


class CheckpointTokenizer:
    """A Tokenizer over a tokenizer.json; safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        n_vocab: int,
        bos_id: int | None,
        eos_id: int | None,
        end_ids: frozenset[int],
    ) -> None:
        """Load it; raises ModelFileError. `n_vocab` counts the rows of the embedding, used or not."""
        self.n_vocab = n_vocab
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.end_ids = end_ids
        self._plain = _load(path)
        self._plain.encode_special_tokens = True  # what looks like a control token is text
        self._parsing = _load(path)
        if self._parsing.get_vocab_size() > n_vocab:
            raise ModelFileError(
                f"{path}: {self._parsing.get_vocab_size()} tokens, and the embedding has {n_vocab} rows"
            )
        layout = read_table(path)
        self._added = {token["id"]: token for token in layout.get("added_tokens", [])}
        self._is_byte_level = _mentions(layout, "ByteLevel")
        self._pieces: list[bytes | None] = [None] * n_vocab
        self.adds_bos = bos_id is not None and self._begins_with(bos_id)
        self._adds_space = self._puts_space_before_text()

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; what is not Unicode (lone surrogates) becomes a question mark."""
        clean = text.encode("utf-8", "replace").decode()
        library = self._parsing if parse_special else self._plain
        ids: list[int] = library.encode(clean, add_special_tokens=add_special).ids
        return ids

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for; raises ValueError for a number that is no token."""
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"{token} is not one of {self.n_vocab} tokens")
        if not special and self._is_control(token):
            return b""
        piece = self._pieces[token]
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes of a whole text."""
        pieces = [self.piece(token, special=special) for token in tokens]
        if self._adds_space:
            for i, token in enumerate(tokens):
                if not self._is_control(token):
                    pieces[i] = pieces[i].removeprefix(b" ")
                    break
        return b"".join(pieces)

    def _is_control(self, token: int) -> bool:
        added = self._added.get(token)
        return added is not None and bool(added.get("special"))

    def _read_piece(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]["content"]).encode()
        text: str | None = self._parsing.id_to_token(token)
        if text is None:
            return b""  # a row of the embedding that stands for nothing
        if self._is_byte_level:
            return bytes(_BYTE_OF.get(char, 0x3F) for char in text)
        match = _BYTE_TOKEN.fullmatch(text)
        if match:
            return bytes.fromhex(match[1])
        return text.replace(_SPACE_MARK, " ").encode()

    def _begins_with(self, token: int) -> bool:
        return self.encode("a", add_special=True, parse_special=False)[:1] == [token]

    def _puts_space_before_text(self) -> bool:
        """Whether this vocabulary puts a space before every text (SentencePiece does)."""
        first = self.encode("a", add_special=False, parse_special=False)[:1]
        return bool(first) and self.piece(first[0]).startswith(b" ")


def _load(path: Path) -> Library:
    from tokenizers import Tokenizer

    if not path.exists():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        library = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no other class
        raise ModelFileError(f"{path}: it cannot be read: {error}") from error
    # Some files have texts cut or filled up, for those who trained with them.
    library.no_truncation()
    library.no_padding()
    return library


def chat_template_of(folder: Path) -> str | None:
    """From its own file, or from the tokenizer's configuration; the one called "default" of several.

    Raises ModelFileError.
    """
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text()
    about = folder / "tokenizer_config.json"
    template = read_table(about).get("chat_template") if about.exists() else None
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _mentions(layout: Any, kind: str) -> bool:
    """Whether decoder or pre-tokenizer are of a kind, alone or in a sequence."""
    parts = [layout.get("decoder"), layout.get("pre_tokenizer")]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("type") == kind:
                return True
            parts += part.get("decoders", []) + part.get("pretokenizers", [])
    return False


def _byte_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level vocabularies (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {chr(byte): byte for byte in shown}
    table |= {chr(256 + i): byte for i, byte in enumerate(hidden)}
    return table


_BYTE_OF = _byte_alphabet()
