"""Two sets of weights over one key-value memory: who computes which rows, what it takes, what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import Runner, cut_specs, whole_spec

pytest.importorskip("onnxruntime")

from onnx_runner import ONNX, canary

from hearth_backends.base import F32
from hearth_backends.errors import Unsupported
from hearth_backends.onnx.kinds import KINDS, support
from hearthd.engine.checkup.bench import Bench, Rows, opened

TEXT = list(
    b"<|im_start|>user\nolive = 4821, the hearth is warm: 1 2 3. Count on: 37 38 39<|im_end|>\n"
)
SPLIT = "int8+int4-32"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))


def opened_with(kind: str, n_seq: int = 4):  # type: ignore[no-untyped-def]
    return opened("onnx", "cpu:0", "builtin:canary", threads=1, n_seq=n_seq, weight_kind=kind)


def after(bench: Bench, *rows: Rows) -> F32:
    """Log-probabilities of every wanted row, in the order of the vocabulary."""
    n_vocab = bench.model.spec.n_vocab
    found = np.empty((0, n_vocab), np.float32)
    for top in bench.step(*rows, n_best=n_vocab).top:
        assert top is not None
        found = np.vstack([found, top.logprobs[np.argsort(top.tokens)]])
    return found


def test_prompts_are_computed_with_the_first_and_outputs_with_the_second() -> None:
    prompt, output = TEXT[:40], TEXT[40:60]
    steps: dict[str, list[F32]] = {}
    for kind in ("int8", SPLIT, "int4-32"):
        with opened_with(kind) as bench:
            done = [after(bench, Rows(0, prompt, wants_all=True, fresh=True))]
            for at, token in enumerate(output):
                done.append(after(bench, Rows(0, [token], start=40 + at, decoded=True)))
            steps[kind] = done
    assert np.array_equal(steps[SPLIT][0], steps["int8"][0])
    assert not np.allclose(steps[SPLIT][1], steps["int8"][1], atol=1e-3)
    assert not np.allclose(steps[SPLIT][1], steps["int4-32"][1], atol=1e-3)


def test_a_prompt_in_pieces_of_one_token_is_a_prompt() -> None:
    with opened_with(SPLIT) as bench:
        bench.step(Rows(0, TEXT[:1], fresh=True))
        for at, token in enumerate(TEXT[1:11], 1):
            bench.step(Rows(0, [token], start=at))
        pieces = after(bench, Rows(0, [TEXT[11]], start=11))
    with opened_with("int8") as bench:
        whole = after(bench, Rows(0, TEXT[:12], fresh=True))
    assert np.abs(pieces - whole).max() < 0.5  # attention adds up in another order


def test_guesses_are_decoded_and_neighbours_change_nothing() -> None:
    with opened_with(SPLIT) as bench:
        bench.step(Rows(0, TEXT[:30], fresh=True))
        alone = np.concatenate(
            [
                after(bench, Rows(0, [t], start=30 + i, decoded=True))
                for i, t in enumerate(TEXT[30:33])
            ]
        )
        bench.step(Rows(1, TEXT[:30], fresh=True), Rows(2, TEXT[5:40], fresh=True))
        mixed = after(
            bench,
            Rows(3, TEXT[7:8], fresh=True),
            Rows(1, TEXT[30:33], start=30, wants_all=True, decoded=True),
            Rows(2, TEXT[40:41], start=35, decoded=True),
        )
    assert np.abs(mixed[1:4] - alone).max() < 0.5
    with opened_with(SPLIT) as bench:
        bench.step(Rows(0, TEXT[:30], fresh=True))
        one = after(bench, Rows(0, TEXT[30:31], start=30, decoded=True))
        bench.step(Rows(1, TEXT[:30], fresh=True), Rows(2, TEXT[5:40], fresh=True))
        of_many = after(
            bench,
            Rows(3, TEXT[7:8], fresh=True),
            Rows(2, TEXT[40:41], start=35, decoded=True),
            Rows(1, TEXT[30:31], start=30, decoded=True),
        )
    assert np.array_equal(of_many[2], one[0])


def test_the_estimate_counts_both() -> None:
    spec = canary().spec
    device = ONNX.devices()[0]
    weights = {
        kind: ONNX.estimate(spec, whole_spec(canary(), weight_kind=kind), device).weights
        for kind in ("int8", "int4-32", SPLIT)
    }
    looked_up = spec.tensors["model.embed_tokens.weight"].n_bytes
    assert weights[SPLIT] == weights["int8"] + weights["int4-32"] - looked_up


@pytest.mark.slow
def test_8_bit_keys_and_values_are_shared_too() -> None:
    with opened(
        "onnx", "cpu:0", "builtin:canary", threads=1, kv_dtype="q8_0", weight_kind=SPLIT
    ) as bench:
        bench.step(Rows(0, TEXT[:30], fresh=True))
        assert np.isfinite(after(bench, Rows(0, [TEXT[30]], start=30, decoded=True))).all()


def test_what_is_refused() -> None:
    assert all(support(kind).ok for kind in (*KINDS, "fp32+int4-128", "file+file"))
    for kind, words in (
        ("int3", "knows no weights of the kind 'int3'"),
        ("int8+int4-32+fp32", "knows no weights of the kind"),
        ("int8+", "knows no weights"),
        ("fp16+int4-32", "fp16 shares keys and values with no other kind"),
    ):
        assert words in support(kind).reason
    with (
        pytest.raises(Unsupported, match="only the last of several stages knows"),
        closing(Runner(canary(), cut_specs(canary(), 2, weight_kind=SPLIT), ONNX)),
    ):
        pass
