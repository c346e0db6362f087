"""LoRA adapters on the GGUF backend: what they compute is what merged weights do; wrong files are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from hearth_backends.base import Bytes, Lease, LoadedModel, Sampled
from hearth_backends.errors import BackendError, ModelFileError, StepError, Unsupported

pytest.importorskip("llama_cpp")

from engine_rig import Rig
from gguf_runner import (
    BACKEND,
    Array,
    MakeGguf,
    Rows,
    Runner,
    cut_specs,
    distributions,
    noise,
    whole_spec,
)
from lora_models import write_lora, write_merged
from recurrent_models import write_recurrent

from hearth_backends.gguf.vocab import open_gguf
from hearthd import wire
from hearthd.engine.load_plan import plan_load

LEASE = Lease(1, "cpu:0", Bytes(0, 0, 0))
Write = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def base(make_gguf: MakeGguf) -> Path:
    return make_gguf(n_layers=3)


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("lora") / f"{name}.gguf" for name in ("one", "two")]
    for seed, path in enumerate(paths):
        write_lora(path, base, seed=seed)
    return paths


@pytest.fixture
def runner(base: Path, adapters: list[Path]) -> Iterator[Runner]:
    """The model with both adapters, as numbers 1 and 2."""
    model = open_gguf(str(base))
    with closing(Runner(model, [whole_spec(model)])) as runner:
        for number, path in enumerate(adapters, 1):
            runner.stages[0].load_adapter(number, path, LEASE)
        yield runner


def step(runner: Runner, row: int, tokens: list[int], adapter: int) -> Array:
    """Log-probabilities after all of the tokens, computed with an adapter."""
    batch = runner.batch([Rows(row, tokens, n_wanted=len(tokens))])
    batch = replace(batch, adapter=np.full(len(tokens), adapter, np.int32))
    result = runner.stages[0].poll(runner.stages[0].submit(batch, None))
    assert isinstance(result, Sampled)
    runner.lengths[row] += len(tokens)
    return distributions(result, runner.model.spec.n_vocab)


def alone(path: Path, tokens: list[int]) -> Array:
    model = open_gguf(str(path))
    with closing(Runner(model, [whole_spec(model)])) as runner:
        return runner.step(Rows(0, tokens, n_wanted=len(tokens)))


def test_an_adapter_computes_what_merged_weights_do(
    base: Path, adapters: list[Path], runner: Runner, tmp_path: Path
) -> None:
    tokens = noise(40, 1)
    plain = step(runner, 0, tokens, 0)
    for number, path in enumerate(adapters, 1):
        merged = tmp_path / f"merged-{number}.gguf"
        write_merged(merged, base, path)
        found = step(runner, number, tokens, number)
        assert np.abs(found - alone(merged, tokens)).max() < 1e-4
        assert np.abs(found - plain).max() > 1, "it changes nothing"
    assert np.abs(plain - alone(base, tokens)).max() < 1e-4


def test_rows_go_on_with_their_own_adapters_step_by_step(runner: Runner) -> None:
    tokens = noise(30, 2)
    expected = [step(runner, row, tokens, row) for row in (0, 1, 2)]
    found: list[list[Array]] = [[], [], []]
    for begin in range(0, 30, 10):
        for row in (2, 0, 1):
            runner.lengths[row + 3] = begin
            found[row].append(step(runner, row + 3, tokens[begin : begin + 10], row))
    for mine, wanted in zip(found, expected, strict=True):
        assert np.abs(np.concatenate(mine) - wanted).max() < 1e-4


def test_greedy_answers_side_by_side_are_those_of_merged_models(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    """In one engine: two adapters and none, sharing prompts, twice."""
    models = [base, tmp_path / "merged-1.gguf", tmp_path / "merged-2.gguf"]
    for merged, path in zip(models[1:], adapters, strict=True):
        write_merged(merged, base, path)
    prompts = [noise(50, 3), noise(50, 4)]
    expected = []
    for path in models:
        with Rig(str(path), kv_dtype="f32", threads=1) as rig:
            expected += [rig.answer(p, max_tokens=16, ignore_eos=True).output for p in prompts]
    lora = [wire.AdapterConfig(path.stem, str(path)) for path in adapters]
    with Rig(str(base), kv_dtype="f32", threads=1, lora=lora, concurrency=16) as rig:
        rids: list[int] = []
        for _ in range(2):
            rids = [
                rig.submit(prompt, max_tokens=16, ignore_eos=True, adapter=name)
                for name in (None, "one", "two")
                for prompt in prompts
            ]
            rig.run()
            assert [rig.answers[rid].output for rid in rids] == expected
        assert [u.n_cached for rid in rids if (u := rig.answers[rid].usage)] == [49] * 6
        rig.assert_nothing_leaked()


def test_a_model_that_carries_a_state_takes_adapters_too(tmp_path: Path) -> None:
    model, lora, merged = (tmp_path / f"{name}.gguf" for name in ("mamba", "lora", "merged"))
    write_recurrent(model, "mamba")
    write_lora(lora, model, seed=5)
    write_merged(merged, model, lora)
    prompt = noise(40, 6)
    with Rig(str(merged), kv_dtype="f32", threads=1) as rig:
        expected = rig.answer(prompt, max_tokens=16, ignore_eos=True).output
    config = [wire.AdapterConfig("x", str(lora))]
    with Rig(str(model), kv_dtype="f32", threads=1, lora=config) as rig:
        plain = rig.answer(prompt, max_tokens=16, ignore_eos=True).output
        answers = [
            rig.answer(prompt, max_tokens=16, ignore_eos=True, adapter="x") for _ in range(2)
        ]
        assert answers[0].output == answers[1].output == expected != plain
        assert [a.usage and a.usage.n_cached for a in answers] == [0, 32]


# --- refusals ----------------------------------------------------------------------------------


def test_rows_of_one_batch_have_one_adapter(runner: Runner) -> None:
    batch = runner.batch([Rows(0, [5]), Rows(1, [6])])
    with pytest.raises(StepError, match="different adapters"):
        runner.stages[0].submit(replace(batch, adapter=np.array([1, 2], np.int32)), None)
    with pytest.raises(StepError, match="no adapter 7"):
        runner.stages[0].submit(replace(batch, adapter=np.array([7, 7], np.int32)), None)


def _truncated(path: Path, base: Path) -> None:
    write_lora(path, base, seed=1)
    path.write_bytes(path.read_bytes()[:-100])


def _half(path: Path, base: Path) -> None:
    write_lora(path, base, seed=1)
    path.write_bytes(
        path.read_bytes().replace(b"blk.1.ffn_down.weight.lora_b", b"blk.1.ffn_down.weight.lora_c")
    )


def _unknown_tensor(path: Path, base: Path) -> None:
    write_lora(path, base, seed=1)
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_down", b"blk.9.ffn_down"))


def _empty(path: Path, base: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path, base: write_lora(path, base, seed=1, architecture="qwen2"), "of qwen2 models"),
        (lambda path, base: write_lora(path, base, seed=1, extra_rows=8), "in the model, and adapted by"),
        (_truncated, "truncated"),
        (_half, "no tensor of a LoRA adapter"),
        (_unknown_tensor, r"blk\.9\.ffn_down\.weight, which tiny does not have"),
        (_empty, "no tensors"),
        (lambda path, base: path.write_bytes(base.read_bytes()), "not a LoRA adapter"),
        (lambda path, base: path.write_bytes(b"GGUF"), "."),
        (lambda path, base: None, "no such file"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_by_name(
    base: Path, tmp_path: Path, write: Write, words: str
) -> None:
    path = tmp_path / "wrong.gguf"
    write(path, base)
    model = open_gguf(str(base))
    with pytest.raises(ModelFileError, match=rf"wrong\.gguf: .*{words}"):
        BACKEND.open_adapter(model.spec, whole_spec(model), path)
    load_frame = wire.AdapterConfig("x", str(path))
    with pytest.raises(BackendError, match=r"wrong\.gguf"):
        Rig(str(base), lora=[load_frame])


def test_an_adapted_embedding_that_is_the_head_too_is_refused(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    """llama.cpp would abort at the first step."""
    tied = make_gguf(tied=True)
    path = tmp_path / "tied.gguf"
    write_lora(path, tied, seed=1, adapts_tied=True)
    model = open_gguf(str(tied))
    with pytest.raises(ModelFileError, match="the head of tiny is the same tensor"):
        BACKEND.open_adapter(model.spec, whole_spec(model), path)


def test_llama_cpp_says_what_it_cannot_load(runner: Runner, tmp_path: Path, base: Path) -> None:
    """Where a file has changed since it was described."""
    path = tmp_path / "changed.gguf"
    write_lora(path, base, seed=1, architecture="qwen2")
    with pytest.raises(ModelFileError, match=r"changed\.gguf: .*arch"):
        runner.stages[0].load_adapter(3, path, LEASE)


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_layers_of_a_cut_model_are_adapted_each_where_they_are(
    make_gguf: MakeGguf, tmp_path: Path, architecture: str
) -> None:
    """Three stages, the second of which the adapter leaves alone."""
    model, lora, merged = (tmp_path / f"{name}.gguf" for name in ("model", "lora", "merged"))
    model.write_bytes(make_gguf(architecture=architecture).read_bytes())
    write_lora(lora, model, seed=3, layers=(0, 3))
    write_merged(merged, model, lora)
    opened = open_gguf(str(model))
    tokens = noise(30, 7)
    with closing(Runner(opened, cut_specs(opened, 1, 3))) as runner:
        for stage in runner.stages:
            assert BACKEND.open_adapter(opened.spec, stage.spec, lora).n_bytes > 0
            stage.load_adapter(1, lora, LEASE)
        plain = runner.step(Rows(0, tokens, n_wanted=30))
        batch = runner.batch([Rows(1, tokens, n_wanted=30)])
        batch = replace(batch, adapter=np.ones(30, np.int32))
        result: object = None
        for stage in runner.stages:
            hidden = result if isinstance(result, np.ndarray) else None
            result = stage.poll(stage.submit(batch, hidden))
        assert isinstance(result, Sampled)
        found = distributions(result, opened.spec.n_vocab)
    assert np.abs(found - alone(merged, tokens)).max() < 1e-4
    assert np.abs(found - plain).max() > 0.5


def test_what_lies_outside_the_layers_needs_the_whole_model(
    tiny: LoadedModel, adapters: list[Path]
) -> None:
    with pytest.raises(Unsupported, match=r"one\.gguf: it adapts token_embd\.weight, which takes"):
        BACKEND.open_adapter(tiny.spec, cut_specs(tiny, 2)[0], adapters[0])


def test_the_lease_of_a_load_has_room_for_adapters(base: Path, adapters: list[Path]) -> None:
    lora = [wire.AdapterConfig(path.stem, str(path)) for path in adapters]
    without, plan = (plan_load(wire.Load("m", str(base), lora=given)) for given in ([], lora))
    needs = [each.lease_requests()[0].weights_bytes for each in (without, plan)]
    assert needs[1] - needs[0] == plan.adapter_bytes > 0
