"""GGUF files: facts, tensors under canonical names, and what a damaged file gets."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.gguf_file import GgufFile, to_halves
from hearth_backends.weights.gguf_header import StringArray

MakeGguf = Callable[..., Path]


# --- facts -------------------------------------------------------------------------------------


def test_the_facts_of_a_real_model(stories: Path) -> None:
    spec = GgufFile(stories).spec
    assert (spec.name, spec.architecture, spec.format) == ("stories260K", "llama", "gguf")
    assert (spec.n_layers, spec.d_model, spec.n_heads, spec.n_kv_heads) == (5, 64, 8, 4)
    assert (spec.head_dim, spec.d_ff, spec.n_vocab, spec.context_trained) == (8, 172, 512, 512)
    assert spec.tied_embeddings
    assert spec.add_bos
    assert (spec.bos_id, spec.eos_id, spec.end_ids) == (1, 2, frozenset({2}))
    assert spec.rope.theta == 10_000
    assert spec.quantization == "F32"
    assert spec.n_parameters == 260_032
    assert spec.chat_template is None


def test_layers_and_what_is_outside_them_make_up_all_tensors(stories: Path) -> None:
    spec = GgufFile(stories).spec
    assert len(spec.tensors) == 47
    assert spec.outer_bytes() == (512 * 64 + 64) * 4
    assert spec.layer_bytes(0, 2) == 2 * spec.layer_bytes(4, 5)
    assert spec.layer_bytes(0, 5) + spec.outer_bytes() == 260_032 * 4


def test_a_written_model_is_described_as_written(make_gguf: MakeGguf) -> None:
    spec = GgufFile(make_gguf(architecture="qwen3", quant="Q4_0")).spec
    assert spec.quantization == "Q4_0"
    assert not spec.tied_embeddings
    assert not spec.add_bos
    assert spec.chat_template is not None
    assert spec.chat_template.startswith("{% for")
    q = spec.tensors["model.layers.3.self_attn.q_proj.weight"]
    assert (q.stored_name, q.shape, q.dtype, q.layer) == (
        "blk.3.attn_q.weight",
        (64, 64),
        "Q4_0",
        3,
    )
    assert q.n_bytes == 64 * 64 // 32 * 18


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("llama", ["self_attn.k_proj", "mlp.gate_proj", "input_layernorm"]),
        ("qwen3", ["self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm"]),
        ("gemma2", ["pre_feedforward_layernorm", "post_feedforward_layernorm"]),
        ("gemma3", ["post_attention_layernorm", "self_attn.q_norm"]),
        ("phi3", ["self_attn.qkv_proj", "mlp.gate_up_proj"]),
    ],
)
def test_tensors_have_their_names_on_hugging_face(
    make_gguf: MakeGguf, architecture: str, names: list[str]
) -> None:
    tensors = GgufFile(make_gguf(architecture=architecture)).spec.tensors
    for name in names:
        assert f"model.layers.1.{name}.weight" in tensors
    assert not any(name.startswith("blk.") for name in tensors)


def test_digests_name_weights(make_gguf: MakeGguf) -> None:
    one = GgufFile(make_gguf(seed=1)).spec.digest
    assert one == GgufFile(make_gguf(seed=1)).spec.digest
    assert one != GgufFile(make_gguf(seed=2)).spec.digest
    assert len(bytes.fromhex(one)) == 32


def test_the_digest_sees_the_end_of_a_large_tensor(make_gguf: MakeGguf, tmp_path: Path) -> None:
    original = make_gguf(d_model=256, d_ff=512)
    file = GgufFile(original)
    large = max(file.header.tensors, key=lambda tensor: tensor.n_bytes)
    assert large.n_bytes > 2 * 65536
    data = bytearray(original.read_bytes())
    data[large.offset + large.n_bytes - 1] ^= 1
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(data)
    assert GgufFile(changed).spec.digest != file.spec.digest


# --- tensors -----------------------------------------------------------------------------------


def test_plain_tensors_are_the_reference_readers(stories: Path) -> None:
    file = GgufFile(stories)
    for expected in gguf.GGUFReader(stories).tensors:
        assert np.array_equal(file.stored(expected.name).data, expected.data)


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0"])
def test_dequantized_tensors_are_the_reference_readers(make_gguf: MakeGguf, quant: str) -> None:
    path = make_gguf(architecture="qwen2", quant=quant)
    file = GgufFile(path)
    for expected in gguf.GGUFReader(path).tensors:
        name = next(t.name for t in file.spec.tensors.values() if t.stored_name == expected.name)
        values = file.tensor(name)
        assert values.dtype == np.float32
        assert np.array_equal(values, gguf.dequantize(expected.data, expected.tensor_type))


def test_rows_of_a_quantized_matrix(make_gguf: MakeGguf) -> None:
    file = GgufFile(make_gguf(quant="Q8_0"))
    rows = np.array([258, 0, 7, 7], np.int32)
    name = "model.embed_tokens.weight"
    assert np.array_equal(file.rows(name, rows), file.tensor(name)[rows])


def test_interleaved_heads_come_out_in_halves(make_gguf: MakeGguf) -> None:
    file = GgufFile(make_gguf(architecture="llama"))
    for name, n_heads in (("q", 4), ("k", 2)):
        stored = file.raw(f"model.layers.0.self_attn.{name}_proj.weight").data
        canonical = file.tensor(f"model.layers.0.self_attn.{name}_proj.weight")
        for head in range(n_heads):
            rows = slice(head * 16, (head + 1) * 16)
            assert np.array_equal(canonical[rows][:8], stored[rows][0::2])
            assert np.array_equal(canonical[rows][8:], stored[rows][1::2])
    v = "model.layers.0.self_attn.v_proj.weight"
    assert np.array_equal(file.tensor(v), file.raw(v).data)


def test_rotating_halves_is_rotating_pairs_reordered() -> None:
    """The reason for the reordering: both orders give the same scores under their own rotation."""
    random = np.random.default_rng(5)
    pairs = random.standard_normal((2, 8)).astype(np.float32)
    halves = to_halves(pairs.reshape(-1, 1), 2).reshape(2, 8)
    angle = np.array([0.3, 0.7, 1.1, 1.9])
    a, b = pairs[:, 0::2], pairs[:, 1::2]
    turned = a * np.cos(angle) - b * np.sin(angle)
    first, second = halves[:, :4], halves[:, 4:]
    assert np.allclose(turned, first * np.cos(angle) - second * np.sin(angle))


def test_gemmas_norms_lose_the_one_that_gguf_adds(make_gguf: MakeGguf) -> None:
    file = GgufFile(make_gguf(architecture="gemma3"))
    for name in ("model.norm.weight", "model.layers.0.self_attn.q_norm.weight"):
        stored = np.asarray(file.raw(name).data, np.float32)
        assert np.array_equal(file.tensor(name), stored - np.float32(1))


def test_a_tensor_that_is_not_there(make_gguf: MakeGguf) -> None:
    with pytest.raises(ModelFileError, match="no tensor lm_head"):
        GgufFile(make_gguf(tied=True)).tensor("lm_head.weight")


# --- damage ------------------------------------------------------------------------------------


def test_missing_and_senseless_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.gguf: there is no such file"):
        GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="directory"):
        GgufFile(tmp_path)
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(ModelFileError, match="empty"):
        GgufFile(empty)


def test_another_format_is_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "picture.gguf"
    path.write_bytes(b"\x89PNG\r\n" + bytes(100))
    with pytest.raises(ModelFileError, match=r"not a GGUF file: it begins with b'\\x89PNG'"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("version", "reason"), [(1, "version 1"), (9, "version 9"), (3 << 24, "big-endian")]
)
def test_versions_that_nobody_reads(tmp_path: Path, version: int, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    with pytest.raises(ModelFileError, match=reason):
        GgufFile(path)


@pytest.mark.parametrize("counts", [(2**63, 1), (1, 2**64 - 1), (10**9, 10**9)])
def test_absurd_counts_end_at_once(tmp_path: Path, counts: tuple[int, int]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(1000))
    began = time.monotonic()
    with pytest.raises(ModelFileError, match="claims"):
        GgufFile(path)
    assert time.monotonic() - began < 1


def test_a_truncated_file_says_how_much_is_missing(stories: Path, tmp_path: Path) -> None:
    data = stories.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[:-1000])
    with pytest.raises(
        ModelFileError, match=r"cut\.gguf: truncated: 1054336 bytes .* 1053336 are there"
    ):
        GgufFile(path)


def test_an_architecture_that_nobody_runs(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make_gguf().read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(Unsupported, match="'lhama'"):
        GgufFile(path)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("output_norm.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Unsupported, match="3 files"):
        GgufFile(tmp_path / "part.gguf")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "damaged.gguf"


def read_or_refuse(path: Path) -> bool:
    """Whether the file was read; any other error than the two that a reader may raise is a bug."""
    try:
        file = GgufFile(path)
    except (ModelFileError, Unsupported):
        return False
    for name in file.spec.tensors:
        file.raw(name)
    return True


def test_every_truncation_is_refused(make_gguf: MakeGguf, scratch: Path) -> None:
    data = make_gguf().read_bytes()
    header_end = GgufFile(make_gguf()).header.data_offset
    scratch.write_bytes(data)
    header_lengths = [n for n in range(header_end) if n < 64 or n % 5 == 0]
    for length in sorted([*header_lengths, *range(header_end, len(data), 4099)], reverse=True):
        os.truncate(scratch, length)
        assert not read_or_refuse(scratch)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(
    make_gguf: MakeGguf, scratch: Path, data: st.DataObject
) -> None:
    original = make_gguf()
    damaged = bytearray(original.read_bytes())
    header_end = GgufFile(original).header.data_offset
    places = data.draw(st.lists(st.integers(0, header_end - 1), min_size=1, max_size=4))
    for place in places:
        damaged[place] = data.draw(st.integers(0, 255))
    scratch.write_bytes(damaged)
    read_or_refuse(scratch)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused(scratch: Path, noise: bytes) -> None:
    scratch.write_bytes(b"GGUF" + struct.pack("<I", 3) + noise)
    assert not read_or_refuse(scratch)


# --- cost --------------------------------------------------------------------------------------


def test_a_large_vocabulary_is_no_wait(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_block_count):
        add(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"token-{i}" for i in range(150_000)])
    writer.add_token_merges([f"left-{i} right-{i}" for i in range(150_000)])
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    began = time.process_time()
    file = GgufFile(path)
    assert time.process_time() - began < 1
    assert file.spec.n_vocab == 150_000
    tokens = file.header.metadata["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, StringArray)
    assert list(tokens)[149_999] == b"token-149999"
