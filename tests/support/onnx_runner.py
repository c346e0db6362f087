"""Stages of the ONNX backend driven step by step, on models that lie here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gguf_runner import Runner, whole_spec

import hearth_backends
from hearth_backends.base import LoadedModel
from hearth_backends.onnx.backend import OnnxBackend
from hearth_backends.registry import open_model

CANARY = Path(hearth_backends.__file__).parent / "canary" / "canary.gguf"
STORIES = "stories260K.gguf"
ONNX = OnnxBackend()


def onnx_runner(model: LoadedModel, weights: str = "fp32", **fields: object) -> Runner:
    """The whole model in one stage."""
    return Runner(model, [whole_spec(model, weight_kind=weights, **fields)], ONNX)


def canary() -> LoadedModel:
    return open_model(str(CANARY))


def stories() -> LoadedModel:
    """A model of 260,000 parameters that tells stories; skips where it is not."""
    folder = os.environ.get("HEARTH_SHARED_MODELS") or Path(__file__).parents[3] / "shared/models"
    path = Path(folder) / STORIES
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return open_model(str(path))
