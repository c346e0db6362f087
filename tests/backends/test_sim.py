"""The simulated backend: strict options, exact text, memory that really counts, time that is told."""

from __future__ import annotations

import numpy as np
import pytest

from hearth_backends.base import (
    Batch,
    Capabilities,
    Sampled,
    SamplingBatch,
    SamplingParams,
    StageSpec,
)
from hearth_backends.errors import BackendError, CapacityError, ModelFileError, StepError
from hearth_backends.kv.contract import KVOp, OpKind, Placement
from hearth_backends.registry import open_model
from hearth_backends.sim.clock import SimClock, StepCost
from hearth_backends.sim.language import SimLanguage, oracle
from hearth_backends.sim.memory import BlockMemory, CellMemory, Memory, SlotMemory, StateMemory
from hearth_backends.sim.options import parse_options
from hearth_backends.sim.stage import SimStage

GREEDY = SamplingParams(temperature=0.0)
PROMPT = list(b"Once upon a time")
N_SEQ, N_CTX, N_LAYERS = 3, 64, 4


def stage(
    variant: str = "slots",
    layers: tuple[int, int] = (0, N_LAYERS),
    *,
    options: str = "",
    caps: Capabilities | None = None,
    clock: SimClock | None = None,
) -> SimStage:
    spec = StageSpec(
        first=layers[0],
        last=layers[1],
        embed=layers[0] == 0,
        head=layers[1] == N_LAYERS,
        n_seq=N_SEQ,
        n_ctx=N_CTX,
        n_rows=32,
        kv_tokens=128,
        kv_dtype="f32",
        weight_kind="file",
        threads=1,
    )
    memories: dict[str, Memory] = {
        "slots": SlotMemory(spec),
        "cells": CellMemory(spec, spec.kv_tokens),
        "blocks": BlockMemory(spec, 8),
        "states": StateMemory(spec),
    }
    parsed = parse_options(f"sim:variant={variant},layers={N_LAYERS}{options}")
    return SimStage(
        spec, caps or Capabilities(), parsed, memories[variant], digest="d", clock=clock
    )


def batch(
    rows: dict[int, list[int]],
    start: int = 0,
    *ops: KVOp,
    blocks: tuple[int, ...] = (),
    sampled: bool = True,
) -> Batch:
    """Rows of sequences from `start` on; the last of each is sampled."""
    counts = [len(tokens) for tokens in rows.values()]
    want = np.zeros(sum(counts), np.bool_)
    want[np.cumsum(counts) - 1] = sampled
    sampling = SamplingBatch(
        params=(GREEDY,) * len(rows),
        positions=np.zeros(len(rows), np.int64),
        targets=np.full(len(rows), -1, np.int32),
        history=(None,) * len(rows),
        n_prompt=(0,) * len(rows),
        banned=((),) * len(rows),
    )
    return Batch(
        tokens=np.array([t for tokens in rows.values() for t in tokens], np.int32),
        seq=np.repeat(np.array(list(rows), np.int32), counts),
        pos=np.concatenate([np.arange(start, start + n, dtype=np.int32) for n in counts]),
        want=want,
        ops=ops,
        placements=tuple(Placement(row, blocks) for row in rows),
        sampling=sampling if sampled else None,
    )


def step(subject: SimStage, *args: object, **options: object) -> list[int]:
    result = subject.poll(subject.submit(batch(*args, **options), None))  # type: ignore[arg-type]
    assert isinstance(result, Sampled)
    tokens: list[int] = result.tokens.tolist()
    return tokens


def says(prompt: list[int], n: int = 1) -> list[int]:
    language = SimLanguage(parse_options(f"sim:layers={N_LAYERS}"))
    return oracle(language, prompt, GREEDY, n, end_ids=frozenset())


# --- options and tokens --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sim:latency=3", "did you mean 'latency_ms'"),
        ("sim:variant=block", "blocks, slots, cells, states"),
        ("sim:depth=2", "between 0 and 1"),
        ("sim:layers=two", "is a number"),
        ("sim:layers", "name=value"),
        ("sim:vocab=100", "between 260"),
    ],
)
def test_an_option_that_is_not_known_is_refused_in_words(path: str, words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        open_model(path)


def test_variants_and_faults_are_the_same_model() -> None:
    digests = {
        open_model(p).spec.digest for p in ("sim:", "sim:variant=cells,fail_every=3,depth=1")
    }
    assert len(digests) == 1
    assert open_model("sim:seed=2").spec.digest not in digests


def test_text_is_exact_in_bytes_and_control_tokens() -> None:
    tokenizer = open_model("sim:bos=1").tokenizer
    text = "né<|im_end|>🙂"
    tokens = tokenizer.encode(text, add_special=True, parse_special=True)
    assert tokens == [256, *"né".encode(), 257, *"🙂".encode()]
    assert tokenizer.decode(tokens[1:], special=True).decode() == text
    assert tokenizer.decode(tokens).decode() == "né🙂"
    assert 257 not in tokenizer.encode(text, add_special=False, parse_special=False)


# --- what is computed ----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["slots", "cells", "blocks", "states"])
def test_every_layout_computes_the_oracle(variant: str) -> None:
    subject = stage(variant)
    blocks = (5, 2)
    tokens = list(PROMPT)
    step(subject, {1: PROMPT[:7]}, 0, blocks=blocks, sampled=False)
    tokens += step(subject, {1: PROMPT[7:]}, 7, blocks=blocks)
    for _ in range(5):
        tokens += step(subject, {1: tokens[-1:]}, len(tokens) - 1, blocks=blocks)
    assert tokens[len(PROMPT) :] == says(PROMPT, 6)


@pytest.mark.parametrize("variant", ["slots", "cells", "blocks", "states"])
def test_two_stages_compute_what_one_does(variant: str) -> None:
    first, second = stage(variant, (0, 1)), stage(variant, (1, N_LAYERS))
    work = batch({0: PROMPT}, blocks=(3, 0))
    hidden = first.poll(first.submit(work, None))
    assert isinstance(hidden, np.ndarray)
    assert hidden.dtype == np.float32
    sampled = second.poll(second.submit(work, hidden))
    assert isinstance(sampled, Sampled)
    assert sampled.tokens.tolist() == says(PROMPT)


@pytest.mark.parametrize("variant", ["slots", "cells", "states"])
def test_a_fork_goes_on_where_its_source_was(variant: str) -> None:
    subject = stage(variant)
    step(subject, {0: PROMPT})
    fork = KVOp(OpKind.FORK, 0, 2, len(PROMPT))
    tail = list(b", there")
    assert step(subject, {2: tail}, len(PROMPT), fork) == says(PROMPT + tail)


@pytest.mark.parametrize("variant", ["slots", "cells"])
def test_truncation_forgets(variant: str) -> None:
    subject = stage(variant)
    step(subject, {0: PROMPT})
    cut = KVOp(OpKind.TRUNCATE, 0, 0, 9)
    tail = list(b"other")
    assert step(subject, {0: tail}, 9, cut) == says(PROMPT[:9] + tail)


def test_states_are_saved_loaded_and_dropped() -> None:
    subject = stage("states")
    step(subject, {0: PROMPT})
    step(subject, {0: list(b"!!")}, len(PROMPT), KVOp(OpKind.SAVE, 0, 7, len(PROMPT)))
    tail = list(b"??")
    load = KVOp(OpKind.LOAD, 7, 1, len(PROMPT))
    assert step(subject, {1: tail}, len(PROMPT), load) == says(PROMPT + tail)
    with pytest.raises(BackendError, match="at 18 tokens, not 9"):
        step(subject, {0: tail}, 9, KVOp(OpKind.TRUNCATE, 0, 0, 9))


def test_stale_memory_changes_what_is_said() -> None:
    subject = stage("blocks")
    step(subject, {0: PROMPT}, blocks=(0, 1))
    step(subject, {0: list(b"X")}, 3, blocks=(0, 1), sampled=False)
    assert step(subject, {0: [65]}, len(PROMPT), blocks=(0, 1)) != says([*PROMPT, 65])


@pytest.mark.parametrize("variant", ["slots", "cells", "states"])
def test_exported_memory_goes_on_elsewhere(variant: str) -> None:
    source, target = stage(variant), stage(variant)
    step(source, {1: PROMPT})
    blob = source.export(Placement(1), len(PROMPT))
    assert target.restore(Placement(2), blob) == len(PROMPT)
    assert step(target, {2: [65]}, len(PROMPT)) == says([*PROMPT, 65])
    for foreign in (b"", blob[:-3], blob.replace(b"sim d", b"sim e")):
        with pytest.raises(StepError, match="another model"):
            target.restore(Placement(2), foreign)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["slots", "cells", "states"])
def test_positions_that_do_not_follow_are_refused(variant: str) -> None:
    subject = stage(variant)
    step(subject, {0: PROMPT})
    with pytest.raises(BackendError, match="tokens, not"):
        step(subject, {0: [65]}, len(PROMPT) + 1)


def test_cells_run_out_before_anything_changes() -> None:
    subject = stage("cells")
    for row in range(2):
        for start in (0, 32):
            step(subject, {row: [65] * 32}, start)
    with pytest.raises(CapacityError, match="only 0 free"):
        step(subject, {2: [65]})
    assert step(subject, {2: [65]}, 0, KVOp(OpKind.TRUNCATE, 1, 1, 0)) == says([65])


@pytest.mark.parametrize(
    ("caps", "rows", "words"),
    [
        (Capabilities(mixed=False), {0: [1, 2], 1: [3]}, "unmixed"),
        (Capabilities(ragged=False), {0: [1, 2], 1: [3]}, "not ragged"),
        (Capabilities(max_prefill_seqs=1), {0: [1, 2], 1: [3, 4]}, "takes 1"),
        (Capabilities(max_wants=1), {0: [1], 1: [3]}, "wanted rows"),
        (Capabilities(), {0: [1] * 33}, "33 rows"),
        (Capabilities(), {0: [300]}, "outside the vocabulary"),
        (Capabilities(), {0: [-1]}, "no sample"),
        (Capabilities(), {3: [1]}, "sequence 3"),
    ],
)
def test_batches_against_the_contract_are_refused(
    caps: Capabilities, rows: dict[int, list[int]], words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        step(stage(caps=caps), rows)


# --- asynchrony, faults and time -----------------------------------------------------------------


def test_an_asynchronous_stage_takes_its_own_last_sample() -> None:
    subject = stage(caps=Capabilities(async_depth=1), options=",depth=1,latency_ms=5")
    first = subject.submit(batch({0: PROMPT}), None)
    second = subject.submit(batch({0: [-1]}, len(PROMPT)), None)
    assert subject.poll(first) is None
    tokens: list[int] = []
    for handle in (first, second):
        while (result := subject.poll(handle)) is None:
            pass
        assert isinstance(result, Sampled)
        tokens += result.tokens.tolist()
    assert tokens == says(PROMPT, 2)


def test_an_asynchronous_failure_shows_when_polled_and_takes_later_steps_along() -> None:
    caps = Capabilities(async_depth=1)
    subject = stage(caps=caps, options=",depth=1,fail_every=2")
    step(subject, {0: PROMPT[:4]})
    failed = [subject.submit(batch({0: PROMPT[i : i + 2]}, i), None) for i in (4, 6)]
    for handle in failed:
        with pytest.raises(StepError):
            subject.poll(handle)
    assert step(subject, {0: PROMPT[4:]}, 4) == says(PROMPT)


def test_faults_come_when_they_were_told_to() -> None:
    subject = stage(options=",fail_every=2,starve_every=5")
    outcomes = []
    for _ in range(6):
        try:
            step(subject, {0: PROMPT})
            outcomes.append("ok")
        except StepError as error:
            outcomes.append("before" if "before" in str(error) else "end")
        except CapacityError:
            outcomes.append("starved")
    assert outcomes == ["ok", "before", "ok", "end", "starved", "before"]


def test_a_clock_tells_the_time_that_steps_cost() -> None:
    clock = SimClock(StepCost(fixed_seconds=1.0, row_seconds=0.5, context_seconds=0.25))
    subject = stage(clock=clock)
    step(subject, {0: PROMPT})
    assert clock() == pytest.approx(1.0 + 16 * 0.5 + 16 * 0.25)
    step(subject, {0: [65]}, 16)
    assert clock() == pytest.approx(13.0 + 1.0 + 0.5 + 17 * 0.25)
