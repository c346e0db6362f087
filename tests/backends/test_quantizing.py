"""Quantized checkpoints: what is written is what our importers read, whole or not at all."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from quantized_checkpoints import CONFIG, Tensors, write_safetensors

from hearth_backends.base import LoadedModel
from hearth_backends.errors import ModelFileError, OutOfMemory, Unsupported
from hearth_backends.quantizing import rounding
from hearth_backends.quantizing.checkpoint import Written, bfloat16, write_quantized
from hearth_backends.quantizing.plan import Target, plan
from hearth_backends.quantizing.shards import Entry, Piece, split, write_shards
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.safetensors_file import SafetensorsFile

MakeGguf = Callable[..., Path]

TARGETS = {
    "int4": (Target("int4", group=32), 0.09),
    "int4 zeros": (Target("int4", symmetric=False, group=32), 0.09),
    "int8": (Target("int8"), 0.01),
    "fp8": (Target("fp8"), 0.04),
}
"""What weights become, and how far a matrix may be from the original, by the root of mean squares."""


def quiet(_fraction: float) -> None: ...


def gguf_model(path: Path) -> LoadedModel:
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    return open_gguf(str(path))


def written(path: Path, target: Target, out: Path, **options: Any) -> tuple[Written, TensorReader]:
    made = write_quantized(gguf_model(path), target, out, quiet, **options)
    return made, Checkpoint(out)


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"]
)
def test_a_gguf_of_every_architecture_becomes_the_same_model(
    architecture: str, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    path = make_gguf(
        architecture=architecture, window=64 if architecture in ("gemma2", "gemma3") else 0
    )
    _, found = written(path, Target("int8"), tmp_path / "out")
    original = open_reader(gguf_model(path).spec)
    assert set(found.spec.tensors) == set(original.spec.tensors)
    for field in ("architecture", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "n_vocab",
                  "context_trained", "tied_embeddings", "sliding_window"):  # fmt: skip
        assert getattr(found.spec, field) == getattr(original.spec, field), field
    for name, tensor in original.spec.tensors.items():
        exact = original.tensor(name)
        bound = 0.01 if len(tensor.shape) == 2 and tensor.layer is not None else 1e-6
        assert distance(exact, found.tensor(name)) < bound, name


def distance(exact: Any, found: Any) -> float:
    """The root of mean squared differences, by that of the numbers."""
    return float(np.linalg.norm(exact - found) / (np.linalg.norm(exact) + 1e-12))


@pytest.mark.parametrize("name", TARGETS)
def test_integers_are_read_as_they_were_written(
    name: str, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    target, bound = TARGETS[name]
    path = make_gguf(d_ff=96)
    made, found = written(path, target, tmp_path / "out")
    original = open_reader(gguf_model(path).spec)
    assert not made.plan.kept
    for tensor in made.plan.quantized:
        exact, read = original.tensor(tensor), found.tensor(tensor)
        assert distance(exact, read) < bound, tensor
        if target.kind == "int4":
            expected = rounding.int4_groups(exact, 32, symmetric=target.symmetric)
            groups = found.groups(tensor)
            assert groups is not None
            assert np.array_equal(groups.scales, expected.scales)
            nibbles = np.stack([groups.packed & 15, groups.packed >> 4], axis=2)
            assert np.array_equal(nibbles.reshape(exact.shape), expected.integers)
            if expected.zeros is not None:
                assert np.array_equal(groups.all_zeros(), expected.zeros)
        if target.kind == "int8":
            channels = found.channels(tensor)
            assert channels is not None
            assert np.array_equal(channels.integers, rounding.int8_channels(exact)[0])


def test_groups_that_do_not_fit_are_left_as_they_were_and_named(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    path = make_gguf(d_ff=80)
    made, found = written(path, Target("int4", group=64), tmp_path / "out")
    assert len(made.plan.kept) == 4
    assert all(name.endswith("mlp.down_proj.weight") for name in made.plan.kept)
    original = open_reader(gguf_model(path).spec)
    assert np.array_equal(found.tensor(made.plan.kept[0]), original.tensor(made.plan.kept[0]))
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "model.layers.0.mlp.down_proj" in ignored["ignore"]


def test_the_group_is_the_largest_of_those_that_fit_most_of_the_model(make_gguf: MakeGguf) -> None:
    for d_ff, group in ((128, 64), (160, 32), (100, 64)):
        spec = gguf_model(make_gguf(d_ff=d_ff)).spec
        assert plan(spec, Target("int4")).target.group == group
    spec = gguf_model(make_gguf()).spec
    with pytest.raises(Unsupported, match="groups of 48 are not written; of 32, 64, 128"):
        plan(spec, Target("int4", group=48))
    with pytest.raises(Unsupported, match="no matrix has inputs that are whole groups of 128"):
        plan(gguf_model(make_gguf(d_ff=96)).spec, Target("int4", group=128))


def test_a_checkpoint_keeps_its_types_its_files_and_its_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    rng = np.random.default_rng(3)
    tensors: Tensors = {}
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{norm}.weight"] = ("F32", rng.normal(size=256).astype(np.float32))
        for name, shape in (
            ("self_attn.q_proj", (256, 256)), ("self_attn.k_proj", (128, 256)),
            ("self_attn.v_proj", (128, 256)), ("self_attn.o_proj", (256, 256)),
            ("mlp.gate_proj", (384, 256)), ("mlp.up_proj", (384, 256)), ("mlp.down_proj", (256, 384)),
        ):  # fmt: skip
            numbers = rng.normal(size=shape).astype(np.float32)
            tensors[f"{at}{name}.weight"] = ("BF16", bfloat16(numbers))
    tensors["model.embed_tokens.weight"] = (
        "BF16",
        bfloat16(rng.normal(size=(64, 256)).astype("f4")),
    )
    tensors["lm_head.weight"] = ("F16", rng.normal(size=(64, 256)).astype(np.float16))
    tensors["model.norm.weight"] = ("F32", np.ones(256, np.float32))
    (source / "config.json").write_text(json.dumps({**CONFIG, "something_else": 1}))
    (source / "tokenizer.json").write_text("{}")
    write_safetensors(source / "model.safetensors", tensors)
    spec = Checkpoint(source).spec
    out = tmp_path / "out"
    write_quantized(LoadedModel(spec, None), Target("int4"), out, quiet, shard_bytes=100_000)  # type: ignore[arg-type]
    assert (out / "tokenizer.json").read_text() == "{}"
    assert json.loads((out / "config.json").read_text())["something_else"] == 1
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2
    found, original = Checkpoint(out), Checkpoint(source)
    assert found.spec.quantization == "INT4-128"
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert found.spec.tensors[name].dtype == original.spec.tensors[name].dtype
        assert np.array_equal(found.tensor(name), original.tensor(name))


def test_quantizing_twice_is_possible(make_gguf: MakeGguf, tmp_path: Path) -> None:
    written(make_gguf(), Target("int8"), tmp_path / "once")
    from hearth_backends.weights.checkpoint_tokenizer import open_checkpoint

    once = open_checkpoint(str(tmp_path / "once"))
    write_quantized(once, Target("int8"), tmp_path / "twice", quiet)
    a, b = Checkpoint(tmp_path / "once"), Checkpoint(tmp_path / "twice")
    name = "model.layers.1.mlp.up_proj.weight"
    assert np.array_equal(a.tensor(name), b.tensor(name))


def test_the_vocabulary_of_stories_is_carried_over(stories: Path, tmp_path: Path) -> None:
    model = gguf_model(stories)
    write_quantized(model, Target("int4"), tmp_path / "out", quiet)
    from hearth_backends.weights.checkpoint_tokenizer import open_checkpoint

    found = open_checkpoint(str(tmp_path / "out"))
    assert found.spec.add_bos
    assert found.spec.end_ids == model.spec.end_ids
    for text in ("Once upon a time", "  two spaces", "naïve 東京\n", ""):
        for special in (False, True):
            expected = model.tokenizer.encode(text, add_special=special, parse_special=special)
            assert (
                found.tokenizer.encode(text, add_special=special, parse_special=special) == expected
            )
            assert found.tokenizer.decode(expected) == model.tokenizer.decode(expected)


# --- whole or not at all -----------------------------------------------------------------------


def test_an_existing_folder_is_replaced_only_where_that_is_asked(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    written(make_gguf(), Target("int4"), out)
    with pytest.raises(ModelFileError, match="is there already; --force replaces it"):
        written(make_gguf(), Target("int8"), out)
    _, found = written(make_gguf(), Target("int8"), out, replace=True)
    assert found.spec.quantization == "INT8"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_something_else_is_never_replaced(make_gguf: MakeGguf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "letters.txt").write_text("dear")
    with pytest.raises(ModelFileError, match="is no checkpoint's folder, and is not replaced"):
        written(make_gguf(), Target("int8"), out, replace=True)
    assert (out / "letters.txt").read_text() == "dear"


@pytest.mark.parametrize("at", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_interrupted_leaves_nothing(
    at: float, force: bool, make_gguf: MakeGguf, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if force:
        written(make_gguf(), Target("int4"), out)

    def stop(fraction: float) -> None:
        if fraction >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_quantized(gguf_model(make_gguf()), Target("int8"), out, stop, replace=force)
    left = [path.name for path in tmp_path.iterdir() if path.name != "home"]
    assert left == (["out"] if force else [])
    if force:
        assert Checkpoint(out).spec.quantization.startswith("INT4")


def test_a_full_disk_is_told_and_left_clean(
    make_gguf: MakeGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OutOfMemory, match=r"no room on disk for .*out; what was written is deleted"
    ):
        written(make_gguf(), Target("int8"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    make_gguf: MakeGguf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(OutOfMemory, match=r"out: it takes \d+ bytes, and 1000 are free"):
        written(make_gguf(), Target("int8"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == []


def test_a_model_is_not_written_over_itself(make_gguf: MakeGguf, tmp_path: Path) -> None:
    written(make_gguf(), Target("int8"), tmp_path / "once")
    from hearth_backends.weights.checkpoint_tokenizer import open_checkpoint

    once = open_checkpoint(str(tmp_path / "once"))
    with pytest.raises(ModelFileError, match="once is the model itself; name another folder"):
        write_quantized(once, Target("fp8"), tmp_path / "." / "once", quiet, replace=True)


def test_what_a_killed_process_left_is_swept_away(make_gguf: MakeGguf, tmp_path: Path) -> None:
    (tmp_path / ".out.partial-999999999").mkdir()
    (tmp_path / ".out.partial-1").mkdir()
    written(make_gguf(), Target("int8"), tmp_path / "out")
    assert not (tmp_path / ".out.partial-999999999").exists()
    assert (tmp_path / ".out.partial-1").exists()


# --- rounding ----------------------------------------------------------------------------------

MATRICES = arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.sampled_from([32, 64, 128])),
    elements=st.floats(-1e4, 1e4, width=32) | st.floats(-(2.0**-10), 2.0**-10, width=32),
)


@given(rows=MATRICES, symmetric=st.booleans())
@settings(max_examples=60, deadline=None)
def test_4_bit_groups_are_no_worse_than_rounding_to_nearest(rows: Any, symmetric: bool) -> None:
    found = rounding.int4_groups(rows, 32, symmetric=symmetric)
    blocks = rows.reshape(len(rows), -1, 32)
    zeros = np.full(found.scales.shape, 8) if found.zeros is None else found.zeros
    integers = found.integers.reshape(blocks.shape).astype(np.float32)
    near = (integers - zeros[:, :, None]) * found.scales[:, :, None]
    low, high = blocks.min(axis=2, keepdims=True), blocks.max(axis=2, keepdims=True)
    if symmetric:
        step = np.maximum(np.abs(low), np.abs(high)) / 7
        plain = np.clip(np.rint(blocks / np.where(step == 0, 1, step)), -8, 7) * step
    else:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        step = (high - low) / 15
        safe = np.where(step == 0, 1, step)
        zero = np.rint(-low / safe)
        plain = (np.clip(np.rint(blocks / safe) + zero, 0, 15) - zero) * step
    errors = ((near - blocks) ** 2).sum(axis=2), ((plain - blocks) ** 2).sum(axis=2)
    # Scales are stored as float16, and what fifteen of them make is off by as much of itself.
    stored = np.sqrt(32) * (15 * step[:, :, 0] * 2.0**-11 + 15 * 2.0**-24)
    assert (np.sqrt(errors[0]) <= np.sqrt(errors[1]) * 1.001 + stored).all()


@given(rows=MATRICES)
@settings(max_examples=60, deadline=None)
def test_8_bits_are_within_half_a_step(rows: Any) -> None:
    integers, scales = rounding.int8_channels(rows)
    assert (np.abs(integers * scales - rows) <= scales * 0.501 + 1e-12).all()
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)


@given(values=arrays(np.float32, 40, elements=st.floats(-448, 448, width=32)))
@settings(max_examples=100, deadline=None)
def test_8_bit_floats_are_those_of_the_standard(values: Any) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    assert np.array_equal(rounding.e4m3_codes(values), expected)


@given(values=arrays(np.float32, 40, elements=st.floats(width=32, allow_nan=False)))
def test_bfloat16_is_that_of_torch(values: Any) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    assert np.array_equal(bfloat16(values).view(np.int16), expected)


# --- shards ------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12), room=st.integers(1, 60))
def test_shards_hold_everything_in_order(sizes: list[int], room: int) -> None:
    entries = [Entry(f"t{i}", "I8", (n,)) for i, n in enumerate(sizes)]
    shards = split(entries, room)
    assert [entry for shard in shards for entry in shard] == entries
    assert all(len(shard) == 1 or sum(e.n_bytes for e in shard) <= room for shard in shards)


def test_a_tensor_of_another_size_is_not_written(tmp_path: Path) -> None:
    pieces = [Piece("a", np.zeros(3, np.int8))]
    with pytest.raises(ValueError, match="a has 3 bytes, not 4"):
        write_shards(tmp_path, [Entry("a", "I8", (4,))], pieces)


def test_pieces_of_one_tensor_follow_each_other(tmp_path: Path) -> None:
    pieces = [Piece("a", np.arange(3, dtype=np.int8)), Piece("a", np.arange(2, dtype=np.int8))]
    write_shards(tmp_path, [Entry("a", "I8", (5,))], pieces)
    assert SafetensorsFile(tmp_path / "model.safetensors").raw("a").tolist() == [0, 1, 2, 0, 1]
