"""The GGUF backend on real arithmetic: batches, operations, layer ranges, failures, memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hearth_backends.base import (
    BLOCK_TOKENS,
    Batch,
    Bytes,
    DeviceInfo,
    KVOp,
    Lease,
    LoadedModel,
    OpKind,
    Placement,
    Sampled,
    SamplingBatch,
    SamplingParams,
    Stage,
    StageSpec,
    Want,
)
from hearth_backends.errors import (
    BackendError,
    CapacityError,
    ModelFileError,
    StepError,
    Unsupported,
)

pytest.importorskip("llama_cpp")

from hearth_backends.gguf.backend import GgufBackend
from hearth_backends.gguf.vocab import open_gguf

MakeGguf = Callable[..., Path]
Array = NDArray[np.float32]

BACKEND = GgufBackend()
CPU = BACKEND.devices()[0]
LILY = ", there was a little girl named Lily. She loved to play outside in the park."


@dataclass
class Rows:
    """The next tokens of one row, and how many of them (the last ones) are wanted."""

    row: int
    tokens: Sequence[int]
    n_wanted: int = 1


def whole_spec(model: LoadedModel, **fields: object) -> StageSpec:
    """A small stage of the whole model in float32."""
    spec = StageSpec(
        first=0, last=model.spec.n_layers, embed=True, head=True, n_seq=6, n_ctx=256, n_rows=96,
        kv_tokens=512, kv_dtype="f32", weight_kind="file", threads=1,
    )  # fmt: skip
    return replace(spec, **fields)  # type: ignore[arg-type]


def cut_specs(model: LoadedModel, *cuts: int, **fields: object) -> list[StageSpec]:
    """Specs of stages that begin at 0 and at each cut."""
    edges = [0, *cuts, model.spec.n_layers]
    return [
        whole_spec(model, first=a, last=b, embed=a == 0, head=b == model.spec.n_layers, **fields)
        for a, b in pairwise(edges)
    ]


def load(model: LoadedModel, spec: StageSpec, device: DeviceInfo = CPU) -> Stage:
    lease = Lease(1, device.name, Bytes(0, 0, 0))
    return BACKEND.load(model.spec, spec, (device,), (lease,), lambda _fraction: None)


class Runner:
    """Stages driven as a pipeline, remembering each row's length."""

    def __init__(self, model: LoadedModel, specs: Sequence[StageSpec]) -> None:
        self.model = model
        self.lengths = [0] * specs[0].n_seq
        self._stack = ExitStack()
        self.stages = [self._stack.enter_context(closing(load(model, spec))) for spec in specs]

    def close(self) -> None:
        self._stack.close()

    def step(self, *groups: Rows, ops: tuple[KVOp, ...] = ()) -> Array:
        """Log-probabilities of the whole vocabulary for every wanted row [k, n_vocab]."""
        batch = self.batch(groups, ops)
        hidden: Array | None = None
        result: object = None
        for stage in self.stages:
            result = stage.poll(stage.submit(batch, hidden))
            hidden = result if isinstance(result, np.ndarray) else None
        assert isinstance(result, Sampled)
        for group in groups:
            self.lengths[group.row] += len(group.tokens)
        return distributions(result, self.model.spec.n_vocab)

    def operate(self, *ops: KVOp) -> None:
        self.step(ops=ops)
        for op in ops:
            self.lengths[op.dst] = op.n_tokens

    def batch(self, groups: Sequence[Rows], ops: tuple[KVOp, ...] = ()) -> Batch:
        tokens = [t for g in groups for t in g.tokens]
        want = [i >= len(g.tokens) - g.n_wanted for g in groups for i in range(len(g.tokens))]
        pos = [self.lengths[g.row] + i for g in groups for i in range(len(g.tokens))]
        seq = [g.row for g in groups for _ in g.tokens]
        return Batch(
            tokens=np.array(tokens, np.int32),
            seq=np.array(seq, np.int32),
            pos=np.array(pos, np.int32),
            want=np.array(want, np.bool_),
            ops=ops,
            placements=tuple(Placement(g.row) for g in groups),
            sampling=everything(sum(want), self.model.spec.n_vocab) if any(want) else None,
        )

    def greedy(self, row: int, prompt: Sequence[int], n: int) -> list[int]:
        """The continuation of a prompt in a row of its own."""
        best = int(self.step(Rows(row, prompt))[0].argmax())
        output = [best]
        while len(output) < n:
            best = int(self.step(Rows(row, [best]))[0].argmax())
            output.append(best)
        return output


def everything(k: int, n_vocab: int) -> SamplingBatch:
    """Greedy, and the log-probability of every token."""
    return SamplingBatch(
        params=(SamplingParams(temperature=0, n_logprobs=n_vocab),) * k,
        positions=np.zeros(k, np.int64),
        targets=np.full(k, -1, np.int32),
        history=(None,) * k,
        n_prompt=(0,) * k,
        banned=((),) * k,
    )


def distributions(sampled: Sampled, n_vocab: int) -> Array:
    rows = np.empty((len(sampled.tokens), n_vocab), np.float32)
    for i, top in enumerate(sampled.top):
        assert top is not None
        rows[i, top.tokens] = top.logprobs
        assert rows[i].argmax() == sampled.tokens[i]
    return rows


def fork(src: int, dst: int, n: int) -> KVOp:
    return KVOp(OpKind.FORK, src, dst, n)


def truncate(row: int, n: int) -> KVOp:
    return KVOp(OpKind.TRUNCATE, row, row, n)


def noise(n: int, seed: int, n_vocab: int = 256) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, n_vocab, n).tolist()
    return tokens


@pytest.fixture(scope="module")
def lily(stories: Path) -> LoadedModel:
    return open_gguf(str(stories))


@pytest.fixture
def runner(lily: LoadedModel) -> Iterator[Runner]:
    with closing(Runner(lily, [whole_spec(lily)])) as runner:
        yield runner


@pytest.fixture(scope="module")
def tiny(make_gguf: MakeGguf) -> LoadedModel:
    return open_gguf(str(make_gguf()))


@pytest.fixture
def tiny_runner(tiny: LoadedModel) -> Iterator[Runner]:
    with closing(Runner(tiny, [whole_spec(tiny)])) as runner:
        yield runner


# --- text and batches --------------------------------------------------------------------------


def test_a_real_model_tells_its_story(runner: Runner, lily: LoadedModel) -> None:
    prompt = lily.tokenizer.encode("Once upon a time", add_special=True, parse_special=False)
    output = runner.greedy(0, prompt, 32)
    assert lily.tokenizer.decode(output).decode().startswith(LILY)


def test_a_batch_of_unequal_sequences_is_each_alone(runner: Runner) -> None:
    prompts = {0: noise(3, 1), 1: noise(31, 2), 2: [7], 5: noise(17, 3)}
    alone = {}
    for row, prompt in prompts.items():
        alone[row] = runner.step(Rows(row, prompt))[0]
        runner.operate(truncate(row, 0))
    together = runner.step(*(Rows(row, prompt) for row, prompt in prompts.items()))
    for mine, row in zip(together, prompts, strict=True):
        assert np.abs(mine - alone[row]).max() < 1e-4


def test_prefill_and_decode_share_a_step(runner: Runner) -> None:
    first, second = noise(20, 4), noise(25, 5)
    expected = runner.step(Rows(0, [*first, 9]), Rows(1, second))
    runner.operate(truncate(0, 0), truncate(1, 0))
    runner.step(Rows(0, first), Rows(1, second[:10], n_wanted=0))
    mixed = runner.step(Rows(0, [9]), Rows(1, second[10:]))
    assert np.abs(mixed - expected).max() < 1e-4


def test_wanted_rows_come_in_the_order_of_the_batch(runner: Runner) -> None:
    tokens = noise(12, 6)
    every = runner.step(Rows(3, tokens, n_wanted=12), Rows(0, tokens[:5], n_wanted=5))
    assert every.shape == (17, 512)
    assert np.abs(every[:5] - every[12:]).max() < 1e-4
    last = runner.step(Rows(1, tokens))
    assert np.abs(last[0] - every[11]).max() < 1e-4


def test_nothing_wanted_samples_nothing(runner: Runner) -> None:
    assert runner.step(Rows(0, [5, 6], n_wanted=0)).shape == (0, 512)


# --- operations --------------------------------------------------------------------------------


def test_a_fork_goes_on_from_a_prefix(tiny_runner: Runner) -> None:
    tokens = noise(40, 7)
    expected = tiny_runner.step(Rows(0, tokens))
    tiny_runner.operate(fork(0, 4, 25))
    forked = tiny_runner.step(Rows(4, tokens[25:]), Rows(0, [3]))
    assert np.abs(forked[0] - expected[0]).max() < 1e-4


def test_a_fork_drops_what_the_row_held(tiny_runner: Runner) -> None:
    tokens = noise(30, 8)
    expected = tiny_runner.step(Rows(0, tokens))
    tiny_runner.step(Rows(1, noise(40, 9)))
    tiny_runner.operate(fork(0, 1, 20))
    assert np.abs(tiny_runner.step(Rows(1, tokens[20:])) - expected).max() < 1e-4


def test_a_fork_outlives_its_source(tiny_runner: Runner) -> None:
    tokens = noise(30, 10)
    expected = tiny_runner.step(Rows(0, tokens))
    tiny_runner.operate(fork(0, 1, 20), truncate(0, 0))
    tiny_runner.step(Rows(0, noise(40, 11)))
    assert np.abs(tiny_runner.step(Rows(1, tokens[20:])) - expected).max() < 1e-4


def test_truncation_forgets_rejected_tokens(tiny_runner: Runner) -> None:
    tokens = noise(30, 12)
    expected = tiny_runner.step(Rows(2, tokens))
    tiny_runner.operate(truncate(2, 18))
    tiny_runner.step(Rows(2, noise(6, 13)))
    tiny_runner.operate(truncate(2, 18))
    assert np.abs(tiny_runner.step(Rows(2, tokens[18:])) - expected).max() < 1e-4


def test_operations_repeat_without_harm(tiny_runner: Runner) -> None:
    tokens = noise(30, 14)
    expected = tiny_runner.step(Rows(0, tokens))
    again = (fork(0, 1, 16), truncate(0, 20), fork(0, 1, 16), truncate(0, 20), truncate(3, 0))
    tiny_runner.step(ops=again)
    tiny_runner.lengths[:2] = [20, 16]
    for row in (0, 1):
        went_on = tiny_runner.step(Rows(row, tokens[tiny_runner.lengths[row] :]))
        assert np.abs(went_on - expected).max() < 1e-4


# --- failures ----------------------------------------------------------------------------------


def test_no_room_is_a_capacity_error_that_leaves_all_sound(tiny: LoadedModel) -> None:
    spec = whole_spec(tiny, kv_tokens=256, n_rows=200, n_ctx=256)
    with closing(Runner(tiny, [spec])) as runner:
        tokens = noise(150, 15)
        expected = runner.step(Rows(0, [*tokens, 40]))
        runner.operate(truncate(0, 150))
        with pytest.raises(CapacityError):
            runner.step(Rows(1, noise(150, 16)))
        assert np.abs(runner.step(Rows(0, [40])) - expected).max() < 1e-4
        runner.operate(truncate(0, 0))
        assert np.abs(runner.step(Rows(1, [*tokens, 40])) - expected).max() < 1e-4


@pytest.mark.parametrize("token", [-1, 259])
def test_a_token_that_is_none_fails_its_step_only(tiny_runner: Runner, token: int) -> None:
    tokens = noise(20, 17)
    expected = tiny_runner.step(Rows(0, tokens))
    tiny_runner.operate(truncate(0, 10))
    with pytest.raises(StepError):
        tiny_runner.step(Rows(0, [5, token]), Rows(1, [4]))
    tiny_runner.operate(truncate(0, 10), truncate(1, 0))
    assert np.abs(tiny_runner.step(Rows(0, tokens[10:])) - expected).max() < 1e-4


def test_positions_that_do_not_go_on_are_refused(tiny_runner: Runner) -> None:
    tiny_runner.step(Rows(0, noise(10, 18)))
    tiny_runner.lengths[0] = 8
    with pytest.raises(StepError, match="holds 10 tokens"):
        tiny_runner.step(Rows(0, [1]))
    tiny_runner.lengths[1] = 5
    with pytest.raises(StepError, match="holds 0 tokens"):
        tiny_runner.step(Rows(1, [1]))


def test_batches_that_llama_cpp_would_abort_on_are_refused(tiny_runner: Runner) -> None:
    with pytest.raises(StepError, match="97 rows"):
        tiny_runner.step(Rows(0, noise(97, 19)))
    with pytest.raises(StepError, match="wanted"):
        tiny_runner.step(Rows(0, noise(80, 20), n_wanted=80))
    tiny_runner.lengths.append(0)
    with pytest.raises(StepError, match="row 6"):
        tiny_runner.step(Rows(6, [1]))


def test_states_and_adapters_are_refused_in_words(tiny_runner: Runner) -> None:
    with pytest.raises(Unsupported, match="save states"):
        tiny_runner.step(ops=(KVOp(OpKind.SAVE, 0, 0, 1),))
    lease = Lease(1, "cpu:0", Bytes(0, 0, 0))
    with pytest.raises(Unsupported, match="no adapters"):
        tiny_runner.stages[0].load_adapter(1, Path("adapter.gguf"), lease)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kv_dtype": "q4_0"}, "not q4_0"),
        ({"kv_dtype": "q8_0"}, "multiple of 32"),
        ({"n_seq": 256}, "at most 255"),
        ({"weight_kind": "int8"}, "as the file stores them"),
        ({"last": 2}, "layers 0 to"),
    ],
)
def test_what_it_does_not_load(tiny: LoadedModel, fields: dict[str, object], words: str) -> None:
    spec = whole_spec(tiny, **fields)
    if words.startswith("layers"):
        spec = replace(spec, first=2)
    with pytest.raises(Unsupported, match=words.replace("layers 0 to", "layers 2 to 2")):
        load(tiny, spec)


def test_a_file_that_changed_since_it_was_described(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make_gguf(seed=3).read_bytes())
    model = open_gguf(str(path))
    path.write_bytes(make_gguf(seed=4).read_bytes())
    with pytest.raises(ModelFileError, match="changed"):
        load(model, cut_specs(model, 2)[0])


def test_what_llama_cpp_cannot_load_is_told_in_its_words(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(make_gguf().read_bytes().replace(b"blk.3.ffn_up", b"blk.3.ffn_UP"))
    model = open_gguf(str(path))
    with pytest.raises(ModelFileError, match=r"odd\.gguf: .*ffn_up"):
        load(model, whole_spec(model))


def test_closing_twice_is_closing(tiny: LoadedModel) -> None:
    stage = load(tiny, whole_spec(tiny))
    stage.close()
    stage.close()


# --- layer ranges ------------------------------------------------------------------------------


def scenario(runner: Runner) -> Array:
    """Chunked prefill beside decode, a fork, a rollback: what came out of all of it."""
    a, b = noise(45, 21), noise(20, 22)
    results = [runner.step(Rows(0, a[:30], n_wanted=3), Rows(1, b[:1]))]
    results.append(runner.step(Rows(0, a[30:]), Rows(1, b[1:], n_wanted=2)))
    runner.operate(fork(0, 2, 32))
    results.append(runner.step(Rows(1, [5]), Rows(2, a[32:40], n_wanted=8)))
    runner.operate(truncate(2, 36))
    results.append(runner.step(Rows(0, [6]), Rows(1, [7]), Rows(2, [8, 9])))
    return np.concatenate(results)


def both_ways(model: LoadedModel, *cuts: int) -> tuple[Array, Array]:
    with closing(Runner(model, [whole_spec(model)])) as whole:
        expected = scenario(whole)
    with closing(Runner(model, cut_specs(model, *cuts))) as cut:
        return expected, scenario(cut)


@pytest.mark.parametrize("cuts", [(1,), (3,), (2, 4)])
def test_a_real_model_in_stages_is_the_same_to_the_bit(
    lily: LoadedModel, cuts: tuple[int, ...]
) -> None:
    expected, found = both_ways(lily, *cuts)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gemma3"])
def test_architectures_in_two_stages_are_the_same_to_the_bit(
    make_gguf: MakeGguf, architecture: str, quant: str
) -> None:
    model = open_gguf(str(make_gguf(architecture=architecture, quant=quant)))
    expected, found = both_ways(model, 1)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("d_model", "tolerance"), [(64, 0), (96, 0.01)])
def test_an_input_that_llama_cpp_scales_is_the_same_but_for_rounding(
    make_gguf: MakeGguf, d_model: int, tolerance: float
) -> None:
    """Gemma 2 multiplies its input by sqrt(d_model), whatever it is: dividing first is exact for 64."""
    model = open_gguf(str(make_gguf(architecture="gemma2", d_model=d_model, window=8)))
    expected, found = both_ways(model, 1)
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_sliding_window_goes_on_where_the_model_was_cut(make_gguf: MakeGguf, cut: int) -> None:
    model = open_gguf(str(make_gguf(architecture="gemma3", n_layers=8, window=8)))
    expected, found = both_ways(model, cut)
    assert np.array_equal(found, expected)


def test_an_untied_head_is_its_own(make_gguf: MakeGguf) -> None:
    for tied in (True, False):
        model = open_gguf(str(make_gguf(architecture="qwen3", tied=tied)))
        assert model.spec.tied_embeddings is tied
        expected, found = both_ways(model, 2)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_rope_factors_are_chosen_by_the_length_of_one_sequence(
    make_gguf: MakeGguf, cuts: tuple[int, ...]
) -> None:
    model = open_gguf(str(make_gguf(architecture="phi3", original_context=256)))
    assert model.spec.rope.scaling == "longrope"
    tokens = noise(30, 31)
    results = []
    for n_ctx, kv_tokens in ((256, 256), (256, 1024), (512, 1024)):
        specs = cut_specs(model, *cuts, n_ctx=n_ctx, kv_tokens=kv_tokens)
        with closing(Runner(model, specs)) as runner:
            results.append(runner.step(Rows(0, tokens)))
    short, short_among_many, long = results
    assert np.abs(short - short_among_many).max() < 1e-4
    assert np.abs(short - long).max() > 0.1


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_the_canary_in_one_stage_and_in_two(cuts: tuple[int, ...]) -> None:
    from hearth_backends import canary

    model = open_gguf(str(canary.PATH))
    expected, found = both_ways(model, *cuts)
    assert np.array_equal(found, expected)


def test_hidden_states_in_are_hidden_states_of_the_stage_before(tiny: LoadedModel) -> None:
    first, second = cut_specs(tiny, 2)
    with closing(Runner(tiny, [first, second])) as runner:
        groups = [Rows(0, noise(5, 23))]
        stage = runner.stages[0]
        hidden = stage.poll(stage.submit(runner.batch(groups), None))
        assert isinstance(hidden, np.ndarray)
        assert hidden.shape == (5, 64)
        for wrong in (None, hidden[:4], hidden[:, :32]):
            with pytest.raises(StepError, match="hidden states of shape"):
                runner.stages[1].submit(runner.batch(groups), wrong)


def test_a_range_of_an_architecture_that_runs_whole_only(tiny: LoadedModel) -> None:
    strange = replace(tiny.spec, architecture="stablelm")
    with pytest.raises(Unsupported, match="whole only"):
        load(LoadedModel(strange, tiny.tokenizer), cut_specs(tiny, 2)[0])


@pytest.mark.parametrize("architecture", ["mamba", "bert", "dream"])
def test_models_it_does_not_support(tiny: LoadedModel, architecture: str) -> None:
    support = BACKEND.supports(replace(tiny.spec, architecture=architecture), CPU)
    assert not support.ok
    assert architecture in support.reason


# --- states ------------------------------------------------------------------------------------


def test_an_exported_state_goes_on_in_another_row(tiny_runner: Runner) -> None:
    tokens = noise(40, 24)
    expected = tiny_runner.step(Rows(0, tokens))
    blob = tiny_runner.stages[0].export(Placement(0), 25)
    tiny_runner.operate(truncate(0, 0))
    tiny_runner.step(Rows(0, noise(30, 25)), Rows(3, noise(9, 26)))
    assert tiny_runner.stages[0].restore(Placement(3), blob) == 25
    tiny_runner.lengths[3] = 25
    assert np.abs(tiny_runner.step(Rows(3, tokens[25:])) - expected).max() < 1e-4


def test_states_of_a_cut_model_move_stage_by_stage(tiny: LoadedModel) -> None:
    with closing(Runner(tiny, cut_specs(tiny, 2))) as runner:
        tokens = noise(40, 27)
        expected = runner.step(Rows(0, tokens))
        blobs = [stage.export(Placement(0), 30) for stage in runner.stages]
        for stage, blob in zip(runner.stages, blobs, strict=True):
            assert stage.restore(Placement(5), blob) == 30
        runner.lengths[5] = 30
        assert np.abs(runner.step(Rows(5, tokens[30:])) - expected).max() < 1e-4
        with pytest.raises(StepError, match="another first"):
            runner.stages[1].restore(Placement(4), blobs[0])


def test_foreign_and_damaged_states_are_refused(tiny_runner: Runner) -> None:
    stage = tiny_runner.stages[0]
    tokens = noise(20, 28)
    expected = tiny_runner.step(Rows(0, tokens))
    blob = stage.export(Placement(0), 10)
    flipped = bytearray(blob)
    flipped[-9] ^= 16
    for damaged in (
        b"",
        b"HKV1",
        blob[:-1],
        blob[:40],
        blob + b"\0",
        bytes(flipped),
        noise_bytes(),
    ):
        with pytest.raises(StepError):
            stage.restore(Placement(1), damaged)
    tiny_runner.operate(truncate(0, 12))
    assert np.abs(tiny_runner.step(Rows(0, tokens[12:])) - expected).max() < 1e-4
    with pytest.raises(StepError, match="holds 20 tokens, not 21"):
        stage.export(Placement(0), 21)


def test_a_state_of_another_model_is_refused(make_gguf: MakeGguf, tiny_runner: Runner) -> None:
    tiny_runner.step(Rows(0, noise(20, 29)))
    blob = tiny_runner.stages[0].export(Placement(0), 20)
    other = open_gguf(str(make_gguf(seed=9)))
    with closing(load(other, whole_spec(other))) as stage, pytest.raises(StepError, match="digest"):
        stage.restore(Placement(0), blob)


def noise_bytes() -> bytes:
    return struct.pack("<4sIII", b"HKV1", 2**31, 2**31, 0) + bytes(100)


# --- memory ------------------------------------------------------------------------------------


def test_the_estimate_is_what_a_load_takes(make_gguf: MakeGguf) -> None:
    path = make_gguf(
        n_layers=6, d_model=512, n_heads=8, n_kv_heads=4, head_dim=64, d_ff=1536, context=8192
    )
    estimated, measured = (int(n) for n in run_measurement(path))
    assert 0.8 < measured / estimated < 1.2


def run_measurement(path: Path) -> list[str]:
    """Estimated bytes, and the growth of a process that loads and fills a stage."""
    script = Path(__file__).with_name("measure_load.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    values: list[str] = json.loads(done.stdout)
    return values


def test_estimates_of_two_stages_are_about_that_of_the_whole(make_gguf: MakeGguf) -> None:
    model = open_gguf(str(make_gguf(architecture="qwen2")))
    whole = BACKEND.estimate(model.spec, whole_spec(model), CPU)
    parts = [BACKEND.estimate(model.spec, spec, CPU) for spec in cut_specs(model, 2)]
    assert sum(part.kv for part in parts) == whole.kv
    layers = model.spec.layer_bytes(0, 4)
    assert layers < sum(part.weights for part in parts) <= whole.weights
    assert whole.weights == layers + model.spec.outer_bytes()


def test_more_cells_take_exactly_their_keys_and_values(tiny: LoadedModel) -> None:
    for kv_dtype, n_bytes in (("f32", 4), ("f16", 2)):
        some, more = (
            BACKEND.estimate(tiny.spec, whole_spec(tiny, kv_tokens=n, kv_dtype=kv_dtype), CPU).kv
            for n in (1024, 4096)
        )
        assert more - some == 3072 * 2 * 4 * 2 * 16 * n_bytes


def test_progress_that_raises_ends_the_load(tiny: LoadedModel) -> None:
    def give_up(_fraction: float) -> None:
        raise ConnectionError("nobody listens")

    with pytest.raises(ConnectionError, match="nobody listens"):
        BACKEND.load(tiny.spec, whole_spec(tiny), (CPU,), (), give_up)


def test_progress_ends_at_one(tiny: LoadedModel) -> None:
    seen: list[float] = []
    lease = Lease(1, "cpu:0", Bytes(0, 0, 0))
    stage = BACKEND.load(tiny.spec, whole_spec(tiny), (CPU,), (lease,), seen.append)
    stage.close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_foreign_handle_is_refused(tiny_runner: Runner) -> None:
    with pytest.raises(BackendError, match="not a handle"):
        tiny_runner.stages[0].poll(object())


# --- stores ------------------------------------------------------------------------------------


@dataclass
class View:
    """A sequence as a store sees it."""

    id: int
    tokens: list[int]
    shares: bool = True

    @property
    def block_hashes(self) -> list[bytes]:
        blocks = range(BLOCK_TOKENS, len(self.tokens) + 1, BLOCK_TOKENS)
        return [bytes(str(self.tokens[:end]), "ascii") for end in blocks]


@pytest.mark.parametrize(
    ("architecture", "window", "n_ctx", "shared"),
    [("llama", 0, 256, 32), ("gemma3", 64, 256, 0), ("gemma3", 256, 256, 32)],
)
def test_a_prefix_is_shared_unless_it_may_leave_a_sliding_window(
    make_gguf: MakeGguf, architecture: str, window: int, n_ctx: int, shared: int
) -> None:
    model = open_gguf(str(make_gguf(architecture=architecture, window=window)))
    spec = whole_spec(model, n_ctx=n_ctx)
    store = BACKEND.store(model.spec, spec)
    first, second = View(1, noise(40, 30)), View(2, noise(40, 30))
    assert store.match(first) == 0
    reservation = store.reserve([Want(first, 40)])
    assert reservation is not None
    store.commit(reservation, {})
    store.release(first)
    assert store.match(second) >= shared
    assert bool(store.match(second)) is bool(shared)
    store.check()
