"""OnnxBackend: what it says of devices and models before it loads one, and what it packs."""

from __future__ import annotations

import errno
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_rig import Rig
from gguf_runner import CPU, MakeGguf, Rows, Runner, whole_spec

from hearth_backends.base import Bytes, DeviceInfo, Lease, LoadedModel, StageSpec
from hearth_backends.errors import ModelFileError, OutOfMemory, Unsupported
from hearth_backends.registry import candidates, open_model

pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

from onnx_runner import ONNX, canary, onnx_runner
from tiny_checkpoints import make_checkpoint
from tiny_tokenizers import byte_level

from hearth_backends.onnx import packing
from hearth_backends.onnx.decoder import build_decoder
from hearth_backends.onnx.memory import packed_bytes
from hearth_backends.weights.opening import open_reader
from hearthd import wire
from hearthd.engine.load_plan import plan_load


def test_devices() -> None:
    devices = ONNX.devices()
    assert devices[0].name == "cpu:0"
    assert all("untested" in device.description for device in devices[1:])


def test_what_it_supports(make_gguf: MakeGguf) -> None:
    model = canary().spec
    gpu = DeviceInfo("cuda:0", "gpu", "", None, None)
    extra = {
        "model.layers.0.mlp.experts": replace(
            model.tensors["model.norm.weight"], name="model.layers.0.mlp.experts", layer=0
        )
    }
    for spec, device, words in (
        (model, CPU, None),
        (model, gpu, "run on the CPU; on cuda:0 run decoders in ONNX files"),
        (replace(model, architecture="mamba"), CPU, "not for mamba"),
        (open_model("sim:").spec, CPU, "a simulated model has none"),
        (replace(model, tensors={**model.tensors, **extra}), CPU, "mlp.experts"),
    ):
        support = ONNX.supports(spec, device)
        assert support.ok == (words is None)
        assert (words or "") in support.reason


def test_it_is_offered_after_the_backend_that_reads_files_as_they_are() -> None:
    assert candidates(canary())[:2] == ["gguf", "onnx"]


def test_the_estimate_of_weights_is_what_is_packed(make_gguf: MakeGguf) -> None:
    model = open_model(str(make_gguf(d_model=256, d_ff=768, head_dim=64)))
    for kind in ("fp32", "fp16", "int8", "int8-32", "int4-32", "int4-128"):
        spec = whole_spec(model, weight_kind=kind)
        assert packed_bytes(model.spec, spec) == pytest.approx(_made_bytes(model, spec), rel=0.1)


def test_unasked_the_slots_of_all_sequences_fit_the_budget() -> None:
    budget = 120 << 20
    load = wire.Load(
        "canary", "builtin:canary", backend="onnx", concurrency=64, threads=1, budget_bytes=budget
    )
    plan = plan_load(load)
    assert 512 <= plan.room.context < canary().spec.context_trained
    need = plan.lease_requests()[0]
    assert need.weights_bytes + need.kv_bytes + need.workspace_bytes <= budget


def test_a_checkpoint_is_served_by_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    make_checkpoint(tmp_path, "qwen3")
    byte_level(tmp_path / "tokenizer.json", n_vocab=259)
    with Rig(str(tmp_path), kv_dtype="f32", threads=1) as rig:
        answer = rig.answer("hello there", max_tokens=8, ignore_eos=True)
    assert answer.finish == "length"
    assert len(answer.tokens) == 8


# --- packing -----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, that weights of any size go to."""
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    monkeypatch.setattr(packing, "SMALL_BYTES", 0)
    return tmp_path / "onnx"


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4-32"])
def test_weights_are_packed_once_and_mapped_after(cache: Path, kind: str) -> None:
    model = canary()
    with closing(Runner(model, [whole_spec(model, weight_kind=kind)], ONNX)) as runner:
        first = runner.step(Rows(0, [5, 6, 7], 3))
    (path,) = cache.glob("*.weights")
    written = path.stat().st_ino
    with closing(onnx_runner(model, kind, n_ctx=128)) as runner:
        assert np.array_equal(runner.step(Rows(0, [5, 6, 7], 3)), first)
    assert path.stat().st_ino == written
    with closing(onnx_runner(model, "int8-32")):
        assert len(list(cache.glob("*.weights"))) == 2


def test_a_damaged_file_is_told_of_and_packed_anew(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = canary()
    onnx_runner(model, "int8").close()
    (path,) = cache.glob("*.weights")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    onnx_runner(model, "int8").close()
    assert (
        f"{path} is packed anew: it has {len(whole) - 1000} bytes, not {len(whole)}" in caplog.text
    )
    assert path.read_bytes() == whole


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_file_that_could_not_be_finished_is_gone(
    cache: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = canary()

    def fail(*_: Any) -> Any:
        assert list(cache.glob("*.weights")) == []
        raise error

    monkeypatch.setattr("hearth_backends.onnx.quantize.int8_channels", fail)
    with pytest.raises(OutOfMemory, match=r"no memory to pack|no room on disk to pack"):
        onnx_runner(model, "int8")
    assert [path.suffix for path in cache.iterdir()] == [".smooth"]


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(packing, "SMALL_BYTES", 0)
    with pytest.raises(ModelFileError, match=r"cannot be written to .*HEARTH_CACHE names another"):
        onnx_runner(canary(), "int8")


def test_where_packed_weights_are_kept() -> None:
    folder = packing.default_folder
    assert folder({"HEARTH_CACHE": "/a", "HOME": "/b"}) == Path("/a/onnx")
    assert folder({"CACHE_DIRECTORY": "/var/cache/hearthd"}) == Path("/var/cache/hearthd/onnx")
    assert folder({"STATE_DIRECTORY": "/var/lib/hearthd"}) == Path("/var/lib/hearthd/onnx")
    assert folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/hearth/onnx")
    assert folder({"HOME": "/b"}) == Path("/b/.cache/hearth/onnx")


def test_progress_goes_up_to_one() -> None:
    model = canary()
    heard: list[float] = []
    lease = Lease(1, CPU.name, Bytes(0, 0, 0))
    ONNX.load(model.spec, whole_spec(model), (CPU,), (lease,), heard.append).close()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def _made_bytes(model: LoadedModel, spec: StageSpec) -> int:
    reader = open_reader(model.spec)
    graph = build_decoder(model.spec, spec, reader.variant(spec.n_ctx))
    return sum(bundle.n_bytes for bundle in graph.bundles if bundle.is_lasting)


def test_adapters_are_refused_with_what_takes_them() -> None:
    model = canary()
    with pytest.raises(
        Unsupported, match=r'x.gguf: backend onnx loads no adapters; backend = "gguf"'
    ):
        ONNX.open_adapter(model.spec, whole_spec(model), Path("x.gguf"))
