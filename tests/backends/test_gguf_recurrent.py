"""Recurrent and hybrid models on the GGUF backend: whole states saved and put back, and nothing cut."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hearth_backends.base import LoadedModel
from hearth_backends.errors import BackendError, ForeignState, StepError, Unsupported
from hearth_backends.kv.contract import KVOp, OpKind, Placement

pytest.importorskip("llama_cpp")

from engine_rig import Rig
from gguf_runner import BACKEND, CPU, Rows, Runner, cut_specs, load, noise, truncate, whole_spec
from recurrent_models import ARCHITECTURES, write_recurrent

from hearth_backends.gguf.llama import Model, lib
from hearth_backends.gguf.stage import GgufStage
from hearth_backends.gguf.vocab import open_gguf

HYBRIDS = ("jamba", "falcon-h1", "granitehybrid", "lfm2")


@pytest.fixture(scope="session")
def recurrent_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("recurrent")
    for architecture in ARCHITECTURES:
        write_recurrent(folder / f"{architecture}.gguf", architecture)
    return {architecture: folder / f"{architecture}.gguf" for architecture in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def path(request: pytest.FixtureRequest, recurrent_models: dict[str, Path]) -> Path:
    return recurrent_models[request.param]


@pytest.fixture
def model(path: Path) -> LoadedModel:
    return open_gguf(str(path))


@cache
def plain_loop(path: Path, prompt: tuple[int, ...], n: int) -> list[int]:
    """Greedy tokens by llama_decode and nothing else, one token after the other."""
    with closing(Model(str(path))) as model:
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = lib.GGML_TYPE_F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = lib.llama_init_from_model(model.pointer, params)
        output: list[int] = []
        try:
            todo = list(prompt)
            while len(output) < n:
                for token in todo:
                    batch = lib.llama_batch_get_one((ctypes.c_int32 * 1)(token), 1)
                    assert lib.llama_decode(context, batch) == 0
                logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (model.n_vocab,))
                todo = [int(logits.argmax())]
                output += todo
        finally:
            lib.llama_free(context)
    return output


def test_greedy_tokens_are_those_of_a_plain_loop_whoever_is_beside(path: Path) -> None:
    """In chunks, among neighbours, from saved states, and after they ran out of room."""
    first = tuple(noise(75, 1, 256))
    prompts = [first, (*first, *noise(9, 2, 256)), tuple(noise(40, 3, 256)), (*first[:50], 7, 8)]
    with Rig(str(path), kv_dtype="f32", threads=1, context=160, step_tokens=32) as rig:
        rids: list[int] = []
        for _ in range(2):
            rids = [rig.submit(prompt, max_tokens=24, ignore_eos=True) for prompt in prompts]
            rig.run()
            for rid, prompt in zip(rids, prompts, strict=True):
                assert rig.answers[rid].output == plain_loop(path, prompt, 24)
            rig.assert_nothing_leaked()
        cached = [usage.n_cached for rid in rids if (usage := rig.answers[rid].usage)]
        assert cached == [64, 80, 32, 48]
        assert rig.core.scheduler.drafter is None
        stage = rig.core.pipeline.stages[0]
        assert stage.caps.rollback == "checkpoint"


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_hybrids_that_run_out_of_cells_are_preempted(
    architecture: str, recurrent_models: dict[str, Path]
) -> None:
    path = recurrent_models[architecture]
    prompts = [tuple(noise(60, seed, 256)) for seed in range(4)]
    with Rig(str(path), kv_dtype="f32", threads=1, context=128, kv_tokens=256) as rig:
        rids = [rig.submit(prompt, max_tokens=40, ignore_eos=True) for prompt in prompts]
        rig.run()
        for rid, prompt in zip(rids, prompts, strict=True):
            assert rig.answers[rid].output == plain_loop(path, prompt, 40)
        assert rig.core.scheduler.n_preemptions
        rig.assert_nothing_leaked()


# --- states ------------------------------------------------------------------------------------


@pytest.fixture(params=["mamba", "lfm2"])
def runner(request: pytest.FixtureRequest, recurrent_models: dict[str, Path]) -> Iterator[Runner]:
    model = open_gguf(str(recurrent_models[request.param]))
    with closing(Runner(model, [whole_spec(model)])) as runner:
        yield runner


def test_a_saved_state_starts_other_rows_and_the_same_one_again(runner: Runner) -> None:
    tokens = noise(40, 5)
    expected = runner.step(Rows(0, tokens))
    runner.operate(truncate(0, 0))
    runner.step(Rows(0, tokens[:25]))
    runner.step(ops=(KVOp(OpKind.SAVE, 0, 3, 25),))
    runner.step(Rows(0, noise(9, 6)))
    runner.step(ops=tuple(KVOp(OpKind.LOAD, 3, row, 25) for row in (0, 4, 0)))
    runner.lengths[0] = runner.lengths[4] = 25
    found = runner.step(Rows(0, tokens[25:]), Rows(4, tokens[25:]))
    assert np.abs(found - expected).max() < 1e-4
    stage = runner.stages[0]
    assert isinstance(stage, GgufStage)
    runner.step(ops=(KVOp(OpKind.DROP, 3, 3, 25),))
    with pytest.raises(BackendError, match="state 3"):
        runner.step(ops=(KVOp(OpKind.LOAD, 3, 0, 25),))


def test_what_does_not_stand_there_is_not_saved_nor_exported(runner: Runner) -> None:
    stage = runner.stages[0]
    runner.step(Rows(0, noise(20, 7)))
    with pytest.raises(StepError, match="stands at 20 tokens, not 16"):
        runner.step(ops=(KVOp(OpKind.SAVE, 0, 0, 16),))
    with pytest.raises(StepError, match="stands at 20 tokens, not 16"):
        stage.export(Placement(0), 16)
    with pytest.raises(ForeignState, match="of 20 tokens, not 16"):
        stage.restore(Placement(1), stage.export(Placement(0), 20), 16)
    with pytest.raises(BackendError, match="cannot cut"):
        runner.step(ops=(truncate(0, 10),))


def test_layers_alone_are_refused_in_words(model: LoadedModel) -> None:
    words = f"{model.spec.architecture} runs whole only"
    with pytest.raises(Unsupported, match=words):
        load(model, cut_specs(model, 2)[0])


def test_a_state_of_unknown_size_is_refused_in_words(
    recurrent_models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    data = recurrent_models["lfm2"].read_bytes()
    path.write_bytes(data.replace(b"lfm2.shortconv.l_cache", b"lfm2.shortconv.1_cache"))
    with pytest.raises(Unsupported, match=r"odd\.gguf: lfm2 carries a state"):
        open_gguf(str(path))


# --- memory ------------------------------------------------------------------------------------


def test_states_take_what_was_estimated(model: LoadedModel) -> None:
    state = model.spec.state
    assert state is not None
    spec = whole_spec(model)
    with closing(Runner(model, [spec])) as runner:
        stage = runner.stages[0]
        assert isinstance(stage, GgufStage)
        runner.step(Rows(0, noise(30, 8)))
        held = lib.llama_state_seq_get_size(stage._context.pointer, 0)
    per_token = 2 * state.n_attention_layers * model.spec.n_kv_heads * model.spec.head_dim * 4
    estimated = state.row_bytes + 30 * per_token
    assert estimated <= held < estimated + 1000


def test_saved_states_stay_within_their_room(model: LoadedModel) -> None:
    assert model.spec.state is not None
    row_bytes = model.spec.state.row_bytes
    none = BACKEND.estimate(model.spec, whole_spec(model, state_bytes=0), CPU).kv
    for n_bytes in (4 * row_bytes, 10 * row_bytes):
        some = BACKEND.estimate(model.spec, whole_spec(model, state_bytes=n_bytes), CPU).kv
        assert n_bytes / 2 < some - none <= n_bytes
    unasked = BACKEND.estimate(model.spec, whole_spec(model), CPU).kv
    assert unasked >= none + whole_spec(model).n_seq * row_bytes


@pytest.mark.parametrize("architecture", ["mamba", "falcon-h1"])
def test_a_load_takes_what_was_estimated(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_recurrent(path, architecture, n_layers=6, d_model=512)
    script = Path(__file__).with_name("measure_load.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    estimated, measured = json.loads(done.stdout)
    assert 0.75 < measured / estimated < 1.25


@pytest.mark.parametrize("architecture", ["mamba", "lfm2"])
def test_what_prompts_have_in_common_is_computed_twice_and_then_never_again(
    architecture: str, recurrent_models: dict[str, Path]
) -> None:
    """A step ends where the second prompt parts from the first, so that there is a state for the third."""
    path, system = recurrent_models[architecture], tuple(noise(100, 9, 256))
    with Rig(str(path), kv_dtype="f32", threads=1, step_tokens=256) as rig:
        cached = []
        for seed in range(4):
            prompt = (*system, *noise(40, 20 + seed, 256))
            answer = rig.answer(prompt, max_tokens=8, ignore_eos=True)
            assert answer.output == plain_loop(path, prompt, 8)
            cached.append(answer.usage and answer.usage.n_cached)
    assert cached == [0, 0, 96, 96]
