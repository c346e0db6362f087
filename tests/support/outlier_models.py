"""The canary with outliers among its activations: the same function in exact numbers, hard to round."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from quantized_checkpoints import Tensors, write_safetensors

from hearth_backends.base import LoadedModel
from hearth_backends.quantizing.config_json import config_of
from hearth_backends.quantizing.tokenizer_files import tokenizer_files
from hearth_backends.weights.opening import open_reader

TIMES = 60.0
COLUMNS = (5, 77)
"""Inputs of attention, of gate and up, and of down that are made TIMES larger."""


def write_with_outliers(folder: Path, model: LoadedModel, times: float = TIMES) -> Path:
    """A checkpoint in float32: norms and `up` give more, and the columns that meet it take less."""
    reader = open_reader(model.spec)
    tensors: Tensors = {}
    for name in model.spec.tensors:
        values = reader.tensor(name).copy()
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
            values[list(COLUMNS)] *= np.float32(times)
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight")):
            values[:, COLUMNS] /= np.float32(times)
        elif name.endswith("up_proj.weight"):
            values[:, COLUMNS] /= np.float32(times)
            values[COLUMNS, :] *= np.float32(times)
        elif name.endswith("down_proj.weight"):
            values[:, COLUMNS] /= np.float32(times)
        tensors[name] = ("F32", values)
    folder.mkdir()
    for name, data in tokenizer_files(model).items():
        (folder / name).write_bytes(data)
    (folder / "config.json").write_text(json.dumps(config_of(reader)))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
