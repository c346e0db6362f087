"""Stages of the ONNX backend driven step by step, on models that lie here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gguf_runner import Runner, whole_spec

import hearth_backends
from hearth_backends.base import LoadedModel
from hearth_backends.onnx.backend import OnnxBackend
from hearth_backends.registry import open_model

CANARY = Path(hearth_backends.__file__).parent / "canary" / "canary.gguf"
ONNX = OnnxBackend()


def onnx_runner(model: LoadedModel, weights: str = "fp32", **fields: object) -> Runner:
    """The whole model in one stage."""
    return Runner(model, [whole_spec(model, weight_kind=weights, **fields)], ONNX)


def canary() -> LoadedModel:
    return open_model(str(CANARY))


class NoTokenizer:
    """Of a model that nobody says a word to."""

    n_vocab = 0
    bos_id = None
    eos_id = None
    end_ids: frozenset[int] = frozenset()

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raise NotImplementedError

    def piece(self, token: int, *, special: bool = False) -> bytes:
        raise NotImplementedError

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        raise NotImplementedError
