"""Checkpoints in Hugging Face's layout: what is read from them, their tokenizers, and damaged ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import byte_level, sentence_piece

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.registry import candidates, open_model
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.checkpoint_config import Config, windows

TEXTS = ["hello there", " two  spaces", "naïve 中文 😀\n\ttab", "", "<|end|> is text", "a\udcffb"]


def write_safetensors(path: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    """A file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in tensors.items():
        place = [at, at + values.nbytes]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": place}
        at += values.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": 300, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": [2, 3], "rope_theta": 5000.0, "torch_dtype": "float32",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that holds an embedding and nothing else."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    rows = np.arange(300 * 8, dtype=np.float32).reshape(300, 8)
    write_safetensors(tmp_path / "model.safetensors", {"model.embed_tokens.weight": rows})
    return tmp_path


def test_what_a_config_says(folder: Path) -> None:
    spec = Checkpoint(folder).spec
    assert (spec.architecture, spec.format, spec.quantization) == ("llama", "safetensors", "F32")
    assert (spec.n_kv_heads, spec.head_dim, spec.n_vocab) == (2, 4, 300)
    assert (spec.rope.theta, spec.rope.n_dims, spec.rope.scaling) == (5000.0, 4, "none")
    assert (spec.bos_id, spec.eos_id) == (1, 2)
    assert spec.end_ids == {2, 3}
    assert spec.tied_embeddings


def test_rows_and_tensors(folder: Path) -> None:
    reader = Checkpoint(folder)
    rows = reader.rows("model.embed_tokens.weight", np.array([3, 0], np.int32))
    assert rows.tolist() == [list(range(24, 32)), list(range(8))]
    assert reader.tensor("model.embed_tokens.weight").shape == (300, 8)
    with pytest.raises(ModelFileError, match=r"there is no tensor lm_head\.weight"):
        reader.tensor("lm_head.weight")


def test_other_weights_have_another_digest(folder: Path) -> None:
    before = Checkpoint(folder).spec.digest
    rows = np.arange(300 * 8, dtype=np.float32).reshape(300, 8)
    rows[299, 7] += 1
    write_safetensors(folder / "model.safetensors", {"model.embed_tokens.weight": rows})
    assert Checkpoint(folder).spec.digest != before


def test_a_truncated_file_is_named_with_its_bytes(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    words = f"{path}: truncated: it has {len(data) - 100} bytes, and {len(data)} belong"
    with pytest.raises(ModelFileError) as caught:
        Checkpoint(folder)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it cannot be read|it has 0 bytes"),
        (b"abc", "not a safetensors file: it has 3 bytes"),
        (struct.pack("<Q", 1 << 60) + b"{}", "truncated or corrupt: a header of"),
        (struct.pack("<Q", 2) + b"[]", "it is no table"),
        (struct.pack("<Q", 4) + b"{{{{", "corrupt header"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "lacks type, shape or place"),
    ],
)
def test_damaged_headers(folder: Path, data: bytes, words: str) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match=words):
        Checkpoint(folder)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
    ],
)
def test_tensors_without_sense(folder: Path, entry: dict[str, object]) -> None:
    text = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(ModelFileError, match="corrupt header: 'a'"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"model_type": "mamba"}, Unsupported, "checkpoints of the type 'mamba' are not read"),
        ({"quantization_config": {"quant_method": "exl2"}}, Unsupported, "quantized by 'exl2'"),
        ({"hidden_size": "8"}, ModelFileError, "hidden_size should be int"),
        ({"num_hidden_layers": -1}, ModelFileError, "num_hidden_layers = -1"),
        ({"rope_scaling": {"type": "spiral"}}, Unsupported, "rope scaling of the kind 'spiral'"),
        ({"layer_types": ["full_attention"] * 2}, ModelFileError, "2 layer_types for 1 layers"),
    ],
)
def test_configs_that_are_refused(
    folder: Path, fields: dict[str, object], kind: type[Exception], words: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **fields}))
    with pytest.raises(kind, match=words) as caught:
        Checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_shards_outside_of_the_folder_are_refused(folder: Path) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": "../other/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="outside of its folder"):
        Checkpoint(folder)


def test_windows() -> None:
    gemma = {**CONFIG, "num_hidden_layers": 6, "sliding_window": 9}
    assert windows(Config({**gemma, "model_type": "gemma2"})) == (9, 0, 9, 0, 9, 0)
    assert windows(Config({**gemma, "model_type": "gemma3_text"})) == (9, 9, 9, 9, 9, 0)
    assert windows(Config({**gemma, "model_type": "mistral"})) == (9,) * 6
    assert (
        windows(Config({**gemma, "model_type": "qwen2", "use_sliding_window": False})) == (0,) * 6
    )


# --- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("write", [byte_level, sentence_piece])
def test_texts_go_there_and_back(folder: Path, write: Any, text: str) -> None:
    write(folder / "tokenizer.json")
    model = open_model(str(folder))
    clean = text.encode("utf-8", "replace")
    tokens = model.tokenizer.encode(text, add_special=False, parse_special=False)
    assert model.tokenizer.decode(tokens) == clean
    pieces = b"".join(model.tokenizer.piece(token) for token in tokens)
    assert pieces in (clean, b" " + clean)


@pytest.mark.parametrize("write", [byte_level, sentence_piece])
def test_control_tokens_are_parsed_only_where_asked(folder: Path, write: Any) -> None:
    write(folder / "tokenizer.json")
    tokenizer = open_model(str(folder)).tokenizer
    (end,) = tokenizer.encode("<|end|>", add_special=False, parse_special=True)[-1:]
    assert tokenizer.piece(end) == b""
    assert tokenizer.piece(end, special=True) == b"<|end|>"
    assert end not in tokenizer.encode("<|end|>", add_special=False, parse_special=False)


def test_what_a_tokenizer_adds(folder: Path) -> None:
    sentence_piece(folder / "tokenizer.json")
    model = open_model(str(folder))
    assert model.spec.add_bos
    assert model.tokenizer.encode("he", add_special=True, parse_special=False)[0] == 1
    assert candidates(model)[0] == "onnx"
    assert model.tokenizer.piece(299) == b""
    with pytest.raises(ValueError, match="300 is not one of 300 tokens"):
        model.tokenizer.piece(300)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert open_model(str(folder)).spec.chat_template == "{{ messages }}"


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer\.json: there is no such file"):
        open_model(str(folder))
