"""CudaStage: tokens that stay on the device, recorded steps, memory that runs out, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from engine_rig import Rig
from gguf_runner import CPU, MakeGguf, Rows, distributions, fork, truncate, whole_spec

from hearth_backends.base import (
    Bytes,
    DeviceInfo,
    Lease,
    LoadedModel,
    Sampled,
    SamplingParams,
    Stage,
)
from hearth_backends.errors import (
    BackendError,
    CapacityError,
    ForeignState,
    OutOfMemory,
    StepError,
    Unsupported,
)
from hearth_backends.kv.contract import Placement
from hearth_backends.registry import candidates, open_model

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
import torch
from cuda_runner import CUDA, PagedRunner, paged_whole, place
from onnx_runner import canary

from hearth_backends.cuda import device, graphs, opening
from hearth_backends.cuda.decoder import Decoder
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.stage import CudaStage
from hearthd import wire

PROMPT = list(b"hello there, how are you")


@pytest.fixture
def runner() -> Iterator[PagedRunner]:
    with closing(paged_whole(canary())) as runner:
        yield runner


def one(runner: PagedRunner, stage: Stage, *groups: Rows) -> Any:
    """A step that is submitted and not asked for yet."""
    handle = stage.submit(runner.batch(groups), None)
    for group in groups:
        runner.lengths[group.row] += len(group.tokens)
    return handle


def test_samples_are_taken_from_the_device_before_anybody_knows_them(runner: PagedRunner) -> None:
    expected = runner.greedy(0, PROMPT, 8)
    (stage,) = runner.stages
    assert stage.caps.async_depth == 1
    handles = [one(runner, stage, Rows(1, PROMPT))]
    handles += [one(runner, stage, Rows(1, [-1])) for _ in range(7)]
    sampled = [stage.poll(handle) for handle in handles]
    assert [int(s.tokens[0]) for s in sampled if isinstance(s, Sampled)] == expected


def test_a_sample_of_another_position_is_not_taken(runner: PagedRunner) -> None:
    runner.step(Rows(0, PROMPT))
    runner.lengths[0] -= 1
    with pytest.raises(BackendError, match="no sample for position"):
        runner.step(Rows(0, [-1]))
    with pytest.raises(BackendError, match="no sample for position"):
        runner.step(Rows(1, [-1]))


@pytest.mark.parametrize("n", [1, 3, 4])
def test_recorded_steps_compute_what_others_do(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sequences are filled up to four."""
    results = []
    for uses in (0, 1_000_000):
        monkeypatch.setattr(graphs, "USES_BEFORE_RECORDING", uses)
        with closing(paged_whole(canary())) as runner:
            for row in range(n):
                runner.step(Rows(row, PROMPT[row:]))
            steps = [
                runner.step(*(Rows(row, [100 + i + row]) for row in range(n))) for i in range(4)
            ]
            results.append(np.concatenate(steps))
    assert np.abs(results[0] - results[1]).max() < 1e-4


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_recorded_steps_sample_what_others_do(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where log-probabilities are asked for, the draw is outside of the recorded step."""
    results = []
    for n_logprobs, uses in ((0, 1_000_000), (None, 1_000_000), (None, 1)):
        monkeypatch.setattr(graphs, "USES_BEFORE_RECORDING", uses)
        params = [SamplingParams(temperature, seed=i, n_logprobs=n_logprobs) for i in range(3)]
        with closing(paged_whole(canary())) as runner:
            results.append(_sampled(runner, params, n_steps=6))
    assert results[0] == results[1] == results[2]
    assert len(set(results[0][0])) > 1


@pytest.mark.parametrize(("temperature", "kind"), [(0.0, "argmax"), (0.9, "drawn")])
def test_what_came_up_is_recorded_at_leisure(temperature: float, kind: str) -> None:
    """One use and two steps of nobody; what follows is as without them."""
    params = [SamplingParams(temperature, seed=i) for i in range(3)]
    results = []
    for rehearses in (False, True):
        with closing(paged_whole(canary())) as runner:
            (stage,) = runner.stages
            assert isinstance(stage, CudaStage)
            assert not stage.idle()  # the processor records nothing
            inner = stage._runner
            with torch.inference_mode():
                assert not inner.rehearse()
            tokens = _sampled(runner, params, n_steps=2)
            if rehearses:
                assert inner._graphs is not None
                assert inner._graphs.unrecorded() == (4, kind)
                with torch.inference_mode():
                    assert [inner.rehearse() for _ in range(3)] == [True, False, False]
            results.append([tokens, _continued(runner, params)])
    assert results[0] == results[1]


def _continued(runner: PagedRunner, params: list[SamplingParams]) -> list[int]:
    """The next tokens of three rows, from what is on the device."""
    (stage,) = runner.stages
    batch = runner.batch([Rows(row, [-1]) for row in range(3)])
    assert batch.sampling is not None
    batch = replace(batch, sampling=replace(batch.sampling, params=tuple(params)))
    result = stage.poll(stage.submit(batch, None))
    assert isinstance(result, Sampled)
    return [int(token) for token in result.tokens]


def _sampled(
    runner: PagedRunner, params: list[SamplingParams], n_steps: int
) -> list[tuple[int, ...]]:
    """Tokens of three rows, each step from what the last one left on the device."""
    (stage,) = runner.stages
    steps = []
    for i in range(n_steps):
        groups = [Rows(row, [-1] if i else PROMPT[row:]) for row in range(3)]
        batch = runner.batch(groups)
        assert batch.sampling is not None
        positions = np.full(3, i, np.int64)
        batch = replace(
            batch, sampling=replace(batch.sampling, params=tuple(params), positions=positions)
        )
        result = stage.poll(stage.submit(batch, None))
        assert isinstance(result, Sampled)
        steps.append(tuple(result.tokens.tolist()))
        for group in groups:
            runner.lengths[group.row] += len(group.tokens)
    return [tuple(row) for row in zip(*steps, strict=True)]


def test_sizes_of_recorded_steps() -> None:
    where = Accelerator("cpu:0")
    assert graphs.Graphs(where, 1).sizes == (1,)
    assert graphs.Graphs(where, 12).sizes == (1, 2, 4, 8, 12)
    sizes = graphs.Graphs(where, 400)
    assert sizes.sizes[-2:] == (248, 256)
    assert [sizes.size_for(n) for n in (1, 3, 9, 256, 257)] == [1, 4, 16, 256, None]


# --- memory ------------------------------------------------------------------------------------


def test_the_estimate_is_what_is_taken(make_gguf: MakeGguf) -> None:
    model = open_model(str(make_gguf(architecture="llama", d_model=256, d_ff=768, head_dim=64)))
    for weights in ("fp32", "fp16", "int8", "fp8", "int4-32", "int4-128"):
        for tied in (True, False):
            spec = whole_spec(model, weight_kind=weights, kv_dtype="fp8", n_ctx=128, head=tied)
            need = CUDA.estimate(model.spec, spec, CPU)
            where = Accelerator("cpu:0")
            with torch.inference_mode():
                precision = opening.precision_on(spec, "cpu:0")
                made = opening.make_runner(model.spec, spec, where, precision, lambda _: None)
            assert made.weights.n_bytes == pytest.approx(need.weights, rel=0.1)
            assert made.pool.n_bytes == need.kv
            made.close()


def test_without_memory_a_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> KVPool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(opening, "KVPool", nothing)
    lease = Lease(1, "cpu:0", Bytes(1, 2, 3))
    with pytest.raises(OutOfMemory, match=r"leased \(6 bytes\).*2.00 GiB"):
        CUDA.load(canary().spec, whole_spec(canary()), (CPU,), (lease,), lambda _: None)


def test_without_memory_a_step_changes_nothing(
    runner: PagedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = runner.greedy(0, PROMPT, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "layers", _out_of_memory)
        with pytest.raises(CapacityError):
            runner.step(Rows(1, PROMPT))
    assert runner.greedy(1, PROMPT, 3) == expected


def _out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_without_memory_a_running_engine_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a preemption, and no answer is another."""
    compute, n_calls = Decoder.layers, 0

    def sometimes(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        return _out_of_memory() if n_calls % 7 in (5, 6) else compute(*args)

    load: dict[str, Any] = {"backend": "cuda", "kv_dtype": "f32", "threads": 1, "concurrency": 4}
    answers, n_preemptions = [], 0
    for layers in (compute, sometimes):
        monkeypatch.setattr(Decoder, "layers", layers)
        with Rig("builtin:canary", **load) as rig:
            n_calls = 0
            rids = [rig.submit(PROMPT[i:], max_tokens=12, ignore_eos=True) for i in range(4)]
            rig.run()
            answers.append([rig.answers[rid].output for rid in rids])
            rig.assert_nothing_leaked()
            n_preemptions = rig.core.scheduler.n_preemptions
    assert answers[0] == answers[1]
    assert n_preemptions


# --- shares of a model -------------------------------------------------------------------------


@pytest.mark.parametrize("backends", [("gguf", "cuda"), ("cuda", "gguf"), ("onnx", "cuda")])
def test_stages_of_several_backends_are_one_model(backends: tuple[str, str]) -> None:
    for package in {"onnx": ["onnxruntime"]}.get(backends[0], []):
        pytest.importorskip(package)
    n_layers = canary().spec.n_layers
    cuts = [0, n_layers // 2, n_layers]
    stages = [
        wire.StageConfig(backend, "cpu:0", (first, last))
        for backend, (first, last) in zip(backends, pairwise(cuts), strict=True)
    ]
    load: dict[str, Any] = {"kv_dtype": "f32", "threads": 1, "context": 128}
    outputs = []
    for cut in ([], stages):
        with Rig("builtin:canary", stages=cut, **load) as rig:
            rids = [rig.submit(PROMPT[i:], max_tokens=16, ignore_eos=True) for i in range(3)]
            rig.run()
            outputs.append([rig.answers[rid].output for rid in rids])
    assert outputs[0] == outputs[1]


# --- what it says and refuses ------------------------------------------------------------------


def test_what_it_supports() -> None:
    model = canary().spec
    extra = replace(model.tensors["model.norm.weight"], name="model.layers.0.mlp.experts", layer=0)
    for spec, words in (
        (model, None),
        (replace(model, architecture="mamba"), "not for mamba"),
        (open_model("sim:").spec, "a simulated model has none"),
        (replace(model, tensors={**model.tensors, extra.name: extra}), "mlp.experts"),
    ):
        support = CUDA.supports(spec, CPU)
        assert support.ok == (words is None)
        assert (words or "") in support.reason
    assert CUDA.version().startswith("torch ")
    assert CUDA.devices()[0].name == "cpu:0"


def test_a_gpu_is_offered_it_first() -> None:
    assert candidates(canary()) == ["gguf", "onnx", "cuda"]
    assert candidates(canary(), "cuda:1") == ["cuda", "gguf", "onnx"]


def test_a_device_that_torch_does_not_have() -> None:
    gpu = DeviceInfo("zpu:0", "gpu", "", None, None)
    with pytest.raises(Unsupported, match="no device 'zpu:0'"):
        CUDA.load(
            canary().spec, whole_spec(canary()), (gpu,), (Lease(1, "", Bytes(0, 0, 0)),), print
        )


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ((7, 5), "capability 8.9"),
        ((8, 6), "capability 8.9"),
        ((8, 9), ""),
        ((9, 0), ""),
        (None, ""),
    ],
)
def test_8_bit_keys_and_values_are_refused_before_anything_is_loaded(
    capability: tuple[int, int] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is what other makers' GPUs say; the refusal is of keys and values only."""
    monkeypatch.setattr(device, "nvidia_capability", lambda _: capability)
    gpu = DeviceInfo("cuda:0", "gpu", "", None, None)
    half = CUDA.estimate(canary().spec, whole_spec(canary(), kv_dtype="f16"), gpu)
    wanted = whole_spec(canary(), kv_dtype="fp8")
    if words:
        with pytest.raises(Unsupported, match=words):
            CUDA.estimate(canary().spec, wanted, gpu)
    else:
        assert CUDA.estimate(canary().spec, wanted, gpu).kv == half.kv // 2


def test_rows_that_do_not_fit_are_refused(runner: PagedRunner) -> None:
    (stage,) = runner.stages
    good = runner.batch([Rows(0, PROMPT)])
    for batch, words in (
        (replace(good, placements=(Placement(0, (1,)),)), "1 blocks only"),
        (replace(good, placements=(place(1),)), "placements of others"),
        (replace(good, pos=good.pos * 2), "follow each other"),
        (replace(good, pos=good.pos + 128), "of 128 tokens"),
        (replace(good, sampling=None), "not said how to sample"),
    ):
        with pytest.raises(BackendError, match=words):
            stage.submit(batch, None)
    with pytest.raises(Unsupported, match="does not fork"):
        stage.submit(runner.batch([], (fork(0, 1, 3),)), None)
    runner.operate(truncate(0, 0))
    assert len(runner.step(Rows(0, PROMPT)))


def test_states_of_others_are_refused(runner: PagedRunner, tiny: LoadedModel) -> None:
    runner.step(Rows(0, PROMPT))
    (stage,) = runner.stages
    blob = stage.export(place(0), 20)
    assert stage.restore(place(1), blob, 17) == 17
    with pytest.raises(StepError, match="1 blocks do not hold"):
        stage.restore(Placement(2, (3,)), blob)
    with pytest.raises(ForeignState):
        stage.restore(place(1), blob, 21)
    for other in (paged_whole(tiny), paged_whole(canary(), kv_dtype="fp8")):
        with closing(other), pytest.raises(ForeignState):
            other.stages[0].restore(place(0), blob)


def test_a_restored_state_goes_on_as_it_would_have(runner: PagedRunner) -> None:
    runner.step(Rows(0, PROMPT[:-1]))
    (stage,) = runner.stages
    blob = stage.export(place(0), len(PROMPT) - 1)
    expected = runner.step(Rows(0, PROMPT[-1:]))
    runner.lengths[3] = stage.restore(place(3), blob)
    assert np.array_equal(runner.step(Rows(3, PROMPT[-1:])), expected)


def test_a_result_is_asked_for_with_a_handle_of_the_stage(runner: PagedRunner) -> None:
    (stage,) = runner.stages
    with pytest.raises(BackendError, match="not a handle"):
        stage.poll(object())
    assert distributions(Sampled(np.zeros(0, np.int32)), 3).shape == (0, 3)
