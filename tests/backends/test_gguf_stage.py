"""The GGUF backend on real arithmetic: text, unequal batches, forks and truncation."""

from __future__ import annotations

import numpy as np
import pytest

from hearth_backends.base import LoadedModel

pytest.importorskip("llama_cpp")

from gguf_runner import Rows, Runner, fork, noise, truncate

LILY = ", there was a little girl named Lily. She loved to play outside in the park."


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


def test_forks_of_forks_and_of_rows_that_are_left(tiny_runner: Runner) -> None:
    """All in one list: where forks copy, the copies happen later than the operations after them."""
    a, b = noise(40, 31), noise(40, 32)
    expected = tiny_runner.step(Rows(0, [*a[:32], 9]), Rows(1, [*b[:24], 9]))
    tiny_runner.operate(fork(0, 2, 32), fork(2, 3, 32), fork(1, 0, 24), truncate(1, 0))
    found = tiny_runner.step(Rows(3, [9]), Rows(1, a[:5], n_wanted=0), Rows(0, [9]))
    assert np.abs(found - expected).max() < 1e-4
