"""Stages on groups of equal devices: what is asked of each, what is refused before anything is allocated, and one that answers."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from engine_process import EngineProcess

from hearth_backends.base import DeviceInfo, Support
from hearth_backends.errors import Unsupported
from hearth_backends.registry import open_model
from hearthd import wire
from hearthd.config.schema import ModelConfig, StageConfig
from hearthd.engine.encoding.loader import plan_encoder
from hearthd.engine.encoding.task import choose_encoding
from hearthd.engine.load_plan import plan_load
from hearthd.serving.deployments import draft_config

CANARY = "builtin:canary"
PAIR = "cuda:0+cuda:1"
GIB = 1 << 30
TWO_PROCESSORS = str(Path(__file__).parent.parent / "support" / "two_processors.py")


def gpu(number: int, gib: float = 24.0, description: str = "A card") -> DeviceInfo:
    n_bytes = int(gib * GIB)
    return DeviceInfo(f"cuda:{number}", "gpu", description, n_bytes, n_bytes, vendor="nvidia")


# --- names -------------------------------------------------------------------------------------


def test_several_devices_of_a_model_are_one_group() -> None:
    assert wire.device_names(PAIR) == ["cuda:0", "cuda:1"]
    assert wire.device_names("cpu:0") == ["cpu:0"]
    models = {"small": ModelConfig(path="/f.gguf", devices=("cuda:0", "cuda:1"))}
    draft = draft_config(ModelConfig(draft="small"), models)
    assert draft is not None
    assert draft.device == PAIR
    assert StageConfig(backend="cuda", device=PAIR).device == PAIR


# --- what a backend shares ---------------------------------------------------------------------


def support(devices: list[DeviceInfo], **changes: int) -> Support:
    backend = importlib.import_module("hearth_backends.cuda.backend").CudaBackend()
    spec = replace(open_model(CANARY).spec, **changes)  # type: ignore[arg-type]
    found: Support = backend.group_support(spec, devices)
    return found


def test_equal_devices_share_a_model() -> None:
    pytest.importorskip("torch")
    heads = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 64}
    assert support([gpu(0), gpu(1)], **heads).ok
    assert support([gpu(0), gpu(1, 23.6)], **heads).ok  # a driver keeps a little
    for devices, changes, words in (
        ([gpu(0), gpu(1, 12)], {}, "cuda:0 is A card with 24.0 GiB, cuda:1 A card with 12.0 GiB"),
        ([gpu(0), gpu(1, description="Another")], {}, "devices of a group are equal"),
        ([gpu(0), gpu(0)], {}, "each device once, not cuda:0, cuda:0"),
        ([gpu(0), gpu(1), gpu(2)], {}, "4 heads cannot be shared by 3 devices"),
        ([gpu(0), gpu(1)], {"n_kv_heads": 1}, "1 heads of keys and values cannot be shared by 2"),
    ):
        found = support(devices, **{**heads, **changes})
        assert not found.ok
        assert words in found.reason


# --- plans -------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> str:
    """Two equal processors of the paged backend, and what they are called together."""
    pytest.importorskip("torch")
    pytest.importorskip("llama_cpp")
    backend = importlib.import_module("hearth_backends.cuda.backend").CudaBackend
    (device,) = backend().devices()
    both = [device, replace(device, name="cpu:1")]
    monkeypatch.setattr(backend, "devices", lambda _: both)
    return "cpu:0+cpu:1"


def test_each_device_is_asked_for_its_share(two: str) -> None:
    load = wire.Load("m", CANARY, backend="cuda", context=256, kv_tokens=1024, weights="fp32")
    (alone,) = plan_load(msgspec.structs.replace(load, prefix_ram_bytes=0)).lease_requests()
    grouped = msgspec.structs.replace(load, device=two, prefix_ram_bytes=0)
    plan = plan_load(grouped)
    requests = plan.lease_requests()
    assert [request.device for request in requests] == ["cpu:0", "cpu:1"]
    for request in requests:
        assert request.kv_bytes == alone.kv_bytes // 2
        assert alone.weights_bytes // 2 <= request.weights_bytes < alone.weights_bytes
        assert request.workspace_bytes == alone.workspace_bytes
    total = sum(r.weights_bytes + r.kv_bytes + r.workspace_bytes for r in requests)
    assert plan.stages[0].need(plan.model.spec).total == total
    as_stage = msgspec.structs.replace(
        load, stages=[wire.StageConfig("cuda", two)], prefix_ram_bytes=0
    )
    assert plan_load(as_stage).lease_requests() == requests


def test_the_budget_of_a_group_decides_its_room(two: str) -> None:
    load = wire.Load("m", CANARY, backend="cuda", device=two, context=256, prefix_ram_bytes=0)
    share = plan_load(msgspec.structs.replace(load, kv_tokens=256)).lease_requests()[0]
    fixed = 2 * (share.weights_bytes + share.workspace_bytes)
    rooms = []
    for n_tokens in (512, 1024):
        budget = fixed + 2 * n_tokens * (2 * share.kv_bytes // 256)  # half of it is for KV
        rooms.append(plan_load(msgspec.structs.replace(load, budget_bytes=budget)).room.kv_tokens)
    assert rooms == [pytest.approx(512, rel=0.15), pytest.approx(1024, rel=0.15)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backend": "gguf", "device": "cpu:0+cpu:1"}, "backend gguf has no device 'cpu:1'"),
        ({"path": "sim:", "device": "cpu:0+cpu:1"}, "it puts a stage on one device"),
        ({"backend": "cuda", "device": "cpu:0+cpu:0"}, "each device once"),
        ({"backend": "cuda", "device": "cpu:0+cpu:7"}, "backend cuda has no device 'cpu:7'"),
        (
            {"backend": "cuda", "device": "cpu:0+cpu:1", "quarantined": {"cuda cpu:1": "it says 5"}},
            "cuda on cpu:1 is in quarantine: it says 5",
        ),
        (
            {
                "stages": [
                    wire.StageConfig("cuda", "cpu:0+cpu:1", (0, 1)),
                    wire.StageConfig("cuda", "cpu:0+cpu:1", (1, 4)),
                ]
            },
            "an engine can have one group of devices, not 2",
        ),
        (
            {
                "backend": "cuda",
                "device": "cpu:0+cpu:1",
                "draft": wire.DraftConfig("d", CANARY, "cuda", "cpu:0+cpu:1"),
            },
            "an engine can have one group of devices, not 2",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(
    two: str, fields: dict[str, object], words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        plan_load(wire.Load(**{"name": "m", "path": CANARY, "context": 256, **fields}))  # type: ignore[arg-type]


def test_a_model_that_encodes_has_one_device() -> None:
    model = open_model("sim:task=embed")
    encoding = choose_encoding(model.spec, None, None)
    assert encoding is not None
    with pytest.raises(Unsupported, match=r"on one device, not on cpu:0\+cpu:1"):
        plan_encoder(wire.Load("m", "sim:task=embed", device="cpu:0+cpu:1"), model, encoding)


# --- an engine ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_engine_answers_from_two_devices() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("llama_cpp")
    load = wire.Load("m", CANARY, backend="cuda", context=128, weights="fp32", kv_dtype="f32")
    texts = []
    for devices in (["cpu:0"], ["cpu:0", "cpu:1"]):
        with EngineProcess([TWO_PROCESSORS]) as engine:
            engine.socket.settimeout(90)
            device = wire.group_name(devices)
            engine.send(msgspec.structs.replace(load, device=device, prefix_ram_bytes=0, threads=1))
            for name in devices:
                assert engine.wait_for(wire.LeaseRequest).device == name
                engine.send(wire.LeaseGrant(1))
            info = engine.wait_for(wire.Ready).info
            assert [stage.device for stage in info.stages] == [device]
            greedy = wire.Sampling(temperature=0.0)
            for rid in (1, 2):
                engine.send(wire.Submit(rid=rid, sampling=greedy, text="Hello", max_tokens=12))
            texts.append("".join(delta.text for delta in engine.deltas_until_finish(1)))
            engine.send(wire.Stop())
            assert engine.process.wait(30) == 0
    assert texts[0]
    assert texts[0] == texts[1]
