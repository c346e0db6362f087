"""The tokenizer files of a checkpoint that is made from a GGUF file, held against the file's own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hearth_backends.base import LoadedModel, Tokenizer
from hearth_backends.errors import Unsupported
from hearth_backends.weights.gguf_file import GgufFile
from hearth_backends.weights.gguf_header import StringArray
from hearth_backends.weights.gguf_spec import Metadata

COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip
"""Of a checkpoint's folder, what stands beside weights and config.json."""

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"
_PATTERNS = {
    "gpt-2": None, "default": None, "smollm": None,
    "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3,
    "qwen2": _QWEN2, "deepseek-r1-qwen": _QWEN2,
}  # fmt: skip
"""How a byte-level vocabulary cuts text before it merges, by GGUF's name; None: as GPT-2 did."""
_SPACE = "▁"

SAMPLE = (
    "The hearth is warm, isn't it?  1234 logs — naïve café, 東京, здравствуй! \U0001f525\n\n"
    "\tdef f(x): return x**2 + 10_000 # 'quoted' \"twice\"   end"
)
"""Cut by both tokenizers, and by every rule that is known."""


def tokenizer_files(model: LoadedModel) -> dict[str, bytes]:
    """By name; raises Unsupported for a vocabulary of a kind that is not carried over."""
    spec = model.spec
    if spec.path is None:
        raise Unsupported(f"{spec.name} has no file")
    header = GgufFile(spec.path).header
    meta = Metadata(header.metadata)
    kind = meta.get("tokenizer.ggml.model", str)
    strings = {
        name: [text.decode("utf-8", "replace") for text in entry.value]
        for name in ("tokens", "merges")
        if (entry := header.metadata.get(f"tokenizer.ggml.{name}")) is not None
        and isinstance(entry.value, StringArray)
    }
    tokens = strings["tokens"]
    types = _list(header.metadata, "token_type") or [_NORMAL] * len(tokens)
    # Rows of the embedding that stand for nothing are named in GGUF files, and elsewhere not.
    used = {token: i for i, token in enumerate(tokens) if types[i] != _UNUSED}
    if kind == "gpt2":
        layout = _byte_level(meta, used, strings.get("merges", []))
    elif kind == "llama":
        layout = _sentence_pieces(meta, tokens, used, _list(header.metadata, "scores"))
    else:
        raise Unsupported(f"{spec.path}: a vocabulary of the kind {kind!r:.40} is not carried over")
    layout |= {
        "version": "1.0",
        "added_tokens": _added(tokens, types),
        "post_processor": _beginning(spec.bos_id if spec.add_bos else None, tokens),
    }
    return {
        "tokenizer.json": _json(layout),
        "tokenizer_config.json": _json(_about(model, tokens)),
        "generation_config.json": _json(
            {"bos_token_id": spec.bos_id, "eos_token_id": sorted(spec.end_ids)}
        ),
    }


def check_same(made: Tokenizer, original: Tokenizer, text: str = SAMPLE) -> None:
    """Raise Unsupported where two tokenizers read a text differently, or a token's bytes differ."""
    for parse in (False, True):
        a, b = (t.encode(text, add_special=parse, parse_special=parse) for t in (made, original))
        if a != b:
            at = next(i for i, (x, y) in enumerate(zip([*a, -1], [*b, -1], strict=False)) if x != y)
            raise Unsupported(
                f"the tokenizer is not carried over: token {at} of a sample is {a[at : at + 3]}, "
                f"where the file's own says {b[at : at + 3]}; quantize the checkpoint instead"
            )
    for token in range(original.n_vocab):
        if made.piece(token) != original.piece(token):
            raise Unsupported(
                f"the tokenizer is not carried over: token {token} is {made.piece(token)!r}, where the "
                f"file's own says {original.piece(token)!r}; quantize the checkpoint instead"
            )


def _byte_level(meta: Metadata, vocabulary: Mapping[str, int], merges: list[str]) -> dict[str, Any]:
    cutting = meta.get("tokenizer.ggml.pre", str) or "default"
    if cutting not in _PATTERNS:
        raise Unsupported(
            f"a vocabulary that cuts text like {cutting!r:.40} is not carried over; "
            f"like {', '.join(_PATTERNS)} it is"
        )
    pairs = [merge.split(" ", 1) for merge in merges]
    known = [pair for pair in pairs if "".join(pair) in vocabulary]
    pattern = _PATTERNS[cutting]
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    steps: list[dict[str, Any]] = []
    if cutting == "smollm":
        steps.append({"type": "Digits", "individual_digits": True})
    if pattern is not None:
        steps.append(
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            }
        )
    steps.append({**bytes_of, "use_regex": pattern is None})
    return {
        "normalizer": {"type": "NFC"} if pattern is _QWEN2 else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {**bytes_of, "use_regex": False},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pattern is _LLAMA3, "vocab": vocabulary, "merges": known,
        },
    }  # fmt: skip


def _sentence_pieces(
    meta: Metadata, tokens: list[str], vocabulary: Mapping[str, int], scores: list[float]
) -> dict[str, Any]:
    """Merges are the ways to put a piece together of two, those with the best score first."""
    merges: list[tuple[float, int, int, list[str]]] = []
    for token, score in zip(tokens, scores, strict=True):
        if token not in vocabulary:
            continue
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        merges += [
            (-score, vocabulary[a], vocabulary[b], [a, b])
            for a, b in cuts
            if a in vocabulary and b in vocabulary
        ]
    merges.sort(key=lambda merge: merge[:3])
    said = meta.get("tokenizer.ggml.add_space_prefix", bool)
    leading = said is None or said
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if leading else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    unknown = meta.get("tokenizer.ggml.unknown_token_id", int)
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if leading:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None if unknown is None else tokens[unknown],
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary,
            "merges": [merge[3] for merge in merges],
        },
    }  # fmt: skip


def _added(tokens: list[str], types: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind != _USER_DEFINED,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]  # fmt: skip


def _beginning(bos: int | None, tokens: list[str]) -> dict[str, Any] | None:
    """What puts BOS before a text, where the model wants it."""
    if bos is None:
        return None
    mark = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [mark, first],
        "pair": [mark, first, second],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }


def _about(model: LoadedModel, tokens: list[str]) -> dict[str, Any]:
    spec = model.spec
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None if spec.bos_id is None else tokens[spec.bos_id],
        "eos_token": None if spec.eos_id is None else tokens[spec.eos_id],
        "add_bos_token": spec.add_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": spec.context_trained,
        "chat_template": spec.chat_template,
    }


def _list(metadata: Mapping[str, Any], name: str) -> list[Any]:
    entry = metadata.get(f"tokenizer.ggml.{name}")
    return [] if entry is None else list(entry.value.tolist())


def copied_files(folder: Path) -> dict[str, bytes]:
    """Of a checkpoint; raises OSError."""
    return {name: (folder / name).read_bytes() for name in COPIED if (folder / name).is_file()}


def _json(values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode()
