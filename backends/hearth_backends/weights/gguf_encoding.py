"""What the header of a GGUF file says of encoding; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from hearth_backends.errors import ModelFileError
from hearth_backends.weights.encoding import EncodingSpec, Pooling
from hearth_backends.weights.gguf_header import Entry, StringArray
from hearth_backends.weights.gguf_names import NOT_DECODERS

_POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""In the order of llama.cpp's numbers."""
_HEADS = ("cls.weight", "cls.output.weight")


def encoding_from_header(
    entries: Mapping[str, Entry], architecture: str, tensors: Mapping[str, object]
) -> EncodingSpec:
    """Describe how the model encodes; raises ModelFileError for a pooling that nobody knows."""
    pooling = _pooling(entries, f"{architecture}.pooling_type")
    labels = _value(entries, f"{architecture}.classifier.output_labels")
    template = _value(entries, "tokenizer.chat_template.rerank")
    return EncodingSpec(
        pooling=pooling,
        generates=architecture not in NOT_DECODERS,
        ranks=pooling == "rank" or any(name in tensors for name in _HEADS),
        labels=_texts(labels) if isinstance(labels, StringArray) else (),
        pair_template=template if isinstance(template, str) else None,
    )


def _pooling(entries: Mapping[str, Entry], key: str) -> Pooling | None:
    number = _value(entries, key)
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < len(_POOLINGS):
        raise ModelFileError(f"corrupt header: {key} = {number!r:.60}")
    return _POOLINGS[number]


def _texts(array: StringArray) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "replace") for text in array)


def _value(entries: Mapping[str, Entry], key: str) -> object:
    entry = entries.get(key)
    return None if entry is None else entry.value
