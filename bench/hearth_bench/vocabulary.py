"""Vocabularies: copied from a GGUF file, or made up to a given size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Any, NamedTuple

import gguf

NORMAL, CONTROL, UNUSED = (
    int(gguf.TokenType.NORMAL),
    int(gguf.TokenType.CONTROL),
    int(gguf.TokenType.UNUSED),
)
_TOKENS, _TYPES, _SCORES = (
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
)
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Field(NamedTuple):
    """One metadata entry of a GGUF file."""

    value: Any
    kind: gguf.GGUFValueType
    element: gguf.GGUFValueType | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The `tokenizer.*` metadata of a file."""

    fields: dict[str, Field]

    @property
    def n_tokens(self) -> int:
        """Entries of the token list."""
        return len(self.fields[_TOKENS].value)

    def padded(self, n_vocab: int) -> Vocabulary:
        """With unused tokens at the end, up to n_vocab; raises ValueError if there are more already."""
        n_more = n_vocab - self.n_tokens
        if n_more < 0:
            raise ValueError(f"{self.n_tokens} tokens do not fit into a vocabulary of {n_vocab}")
        more: dict[str, list[Any]] = {
            _TOKENS: [f"[PAD{self.n_tokens + i}]" for i in range(n_more)],
            _TYPES: [UNUSED] * n_more,
            _SCORES: [0.0] * n_more,
        }
        return Vocabulary(
            {
                name: field._replace(value=[*field.value, *more[name]]) if name in more else field
                for name, field in self.fields.items()
            }
        )


def copied(path: Path) -> Vocabulary:
    """The vocabulary and chat template of a GGUF file."""
    reader = gguf.GGUFReader(path)
    fields: dict[str, Field] = {}
    for name, found in reader.fields.items():
        if name.startswith("tokenizer."):
            element = found.types[-1] if len(found.types) > 1 else None
            fields[name] = Field(found.contents(), found.types[0], element)
    return Vocabulary(fields)


def made_up(n_vocab: int) -> Vocabulary:
    """A byte-level vocabulary: 256 bytes, three ChatML controls, and pieces of 2 to 4 letters.

    Every piece has its merge, so that text costs about as many tokens, and the tokenizer about as
    much work, as with a real vocabulary.
    """
    tokens = [*byte_letters(), *CONTROLS]
    types = [NORMAL] * 256 + [CONTROL] * len(CONTROLS)
    merges: list[str] = []
    for left, right in _pieces():
        if len(tokens) == n_vocab:
            break
        tokens.append(left + right)
        types.append(NORMAL)
        merges.append(f"{left} {right}")
    string, integer = gguf.GGUFValueType.STRING, gguf.GGUFValueType.INT32
    array, uint32 = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32
    vocabulary = Vocabulary(
        {
            "tokenizer.ggml.model": Field("gpt2", string),
            "tokenizer.ggml.pre": Field("gpt-2", string),
            _TOKENS: Field(tokens, array, string),
            _TYPES: Field(types, array, integer),
            "tokenizer.ggml.merges": Field(merges or ["Ā ā"], array, string),
            "tokenizer.ggml.eos_token_id": Field(258, uint32),
            "tokenizer.ggml.eot_token_id": Field(258, uint32),
            "tokenizer.ggml.padding_token_id": Field(256, uint32),
            "tokenizer.ggml.add_bos_token": Field(value=False, kind=gguf.GGUFValueType.BOOL),
            "tokenizer.chat_template": Field(TEMPLATE, string),
        }
    )
    return vocabulary.padded(n_vocab)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in GPT-2's notation."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def _pieces() -> Iterator[tuple[str, str]]:
    """Pairs to merge, in rank order: two letters first, then two of those, in a fixed shuffle."""
    space = byte_letters()[0x20]
    pairs = [(a, b) for a in space + ascii_lowercase for b in ascii_lowercase]
    yield from pairs
    twos = [a + b for a, b in pairs]
    inner = [two for two in twos if not two.startswith(space)]
    fours = [(a, b) for a in twos for b in inner]
    Random(0).shuffle(fours)
    yield from fours
