"""How requests end and what they say: stop strings and tokens, lengths, echo, log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from engine_rig import Answer, Rig
from shells import Masking, mask_of
from sim_oracle import END_IDS, expected, expected_logprobs

from hearthd import wire

NOISE = "sim:layers=2"
ECHO = "sim:layers=2,says=echo"
GREEDY = wire.Sampling(temperature=0.0)


@pytest.fixture
def echo() -> Iterator[Rig]:
    with Rig(ECHO) as rig:
        yield rig


@pytest.fixture
def noise() -> Iterator[Rig]:
    with Rig(NOISE) as rig:
        yield rig


# --- ends ----------------------------------------------------------------------------------------


def test_the_end_token_ends_and_is_not_shown(echo: Rig) -> None:
    answer = echo.answer("good day\n", max_tokens=50)
    assert (answer.text, answer.finish, answer.stopped_by) == ("good day", "stop", 257)
    assert answer.tokens == list(b"good day")
    assert answer.usage == wire.Usage(n_prompt=9, n_output=9, n_cached=0)


def test_text_of_several_bytes_comes_out_whole(echo: Rig) -> None:
    rid = echo.submit("né 🙂 ok\n", max_tokens=50)
    texts = []
    while echo.core.has_work:
        texts += [delta.text for delta in echo.step()]
    assert "".join(texts) == echo.answers[rid].text == "né 🙂 ok"
    assert "�" not in "".join(texts)
    assert "🙂" in texts


@pytest.mark.parametrize(
    ("stop", "include", "text"),
    [
        (["day"], False, "good "),
        (["day"], True, "good day"),
        (["dusk", "d d"], False, "goo"),
        (["days"], False, "good day"),
    ],
)
def test_stop_strings(echo: Rig, stop: list[str], include: bool, text: str) -> None:
    answer = echo.answer("good day\n", max_tokens=50, stop=stop, include_stop=include)
    assert (answer.text, answer.finish) == (text, "stop")
    assert answer.stopped_by in (*stop, 257)
    echo.assert_nothing_leaked()


def test_stop_tokens(echo: Rig) -> None:
    answer = echo.answer("good day\n", max_tokens=50, stop_token_ids=[ord("y")])
    assert (answer.text, answer.finish, answer.stopped_by) == ("good da", "stop", ord("y"))


def test_max_tokens(echo: Rig) -> None:
    answer = echo.answer("good day\n", max_tokens=3)
    assert (answer.text, answer.finish, answer.stopped_by) == ("goo", "length", None)


def test_no_limit_means_the_context(noise: Rig) -> None:
    answer = noise.answer("x" * 200, ignore_eos=True)
    assert answer.finish == "length"
    assert len(answer.tokens) == 256 - 200


def test_min_tokens_bans_ends_and_lets_stop_strings_pass(echo: Rig) -> None:
    answer = echo.answer("ab\n", max_tokens=9, min_tokens=6, stop=["b"])
    assert answer.text.startswith("ab")
    assert len(answer.tokens) >= 6


def test_ignore_eos_goes_on_to_the_limit(echo: Rig) -> None:
    answer = echo.answer("ab\n", max_tokens=9, ignore_eos=True)
    assert answer.finish == "length"
    assert len(answer.tokens) == 9
    assert answer.tokens[2] == 257


def test_a_chat_is_answered_by_its_last_user_message(echo: Rig) -> None:
    frame = wire.Submit(
        rid=7,
        sampling=wire.Sampling(),
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "second\nline"},
        ],
        max_tokens=40,
    )
    echo.answers[7] = Answer()
    echo.core.add(echo.intake.submit(frame))
    assert echo.run()[7].text == "second\nline"


# --- nothing to generate, echo and scores --------------------------------------------------------


def test_max_tokens_zero_ends_at_once(echo: Rig) -> None:
    answer = echo.answer("abc", max_tokens=0, echo=True)
    assert (answer.text, answer.tokens, answer.finish) == ("abc", list(b"abc"), "length")
    assert echo.n_steps == 0


def test_echo_comes_first(echo: Rig) -> None:
    answer = echo.answer("abc\n", max_tokens=9, echo=True)
    assert answer.text == "abc\nabc"
    assert answer.tokens == list(b"abc\nabc")


@pytest.mark.parametrize("step_tokens", [5, 64])
@pytest.mark.parametrize("n_stages", [1, 2])
@pytest.mark.parametrize("max_tokens", [0, 4])
def test_scores_of_the_prompt(step_tokens: int, n_stages: int, max_tokens: int) -> None:
    prompt = list(b"a prompt of some length")
    with Rig(NOISE, step_tokens=step_tokens, concurrency=4, n_stages=n_stages) as rig:
        other = rig.submit(b"in between", max_tokens=20, ignore_eos=True)
        answer = rig.answer(
            prompt,
            wire.Sampling(temperature=0.0),
            max_tokens=max_tokens,
            prompt_logprobs=3,
            echo=True,
        )
        assert rig.answers[other].output == expected(
            NOISE, b"in between", max_tokens=20, ignore_eos=True
        )
        rig.assert_nothing_leaked()
    output = expected(NOISE, prompt, max_tokens=max_tokens) if max_tokens else []
    assert answer.output == prompt + output
    _check_logprobs(answer.logprobs, prompt + [t for t in output if t not in END_IDS], n_best=3)
    assert answer.logprobs[0].logprob is None


def _check_logprobs(entries: list[wire.TokenLogprob], tokens: list[int], n_best: int) -> None:
    logprobs = expected_logprobs(NOISE, tokens)
    assert [entry.token for entry in entries] == tokens
    for entry, row in zip(entries[1:], logprobs[:-1], strict=True):
        assert entry.logprob == pytest.approx(row[entry.token], abs=1e-4)
        best = np.argsort(-row, kind="stable")[:n_best]
        assert {token for token, _, _ in entry.top} >= set(best[: n_best - 1].tolist())
        assert [p for _, _, p in entry.top[:n_best]] == pytest.approx(row[best].tolist(), abs=1e-4)


def test_logprobs_of_the_output_follow_the_tokens_that_stop_strings_hold_back(echo: Rig) -> None:
    sampling = wire.Sampling(temperature=0.0, n_logprobs=0)
    answer = echo.answer("good day\n", sampling, max_tokens=50, stop=["od", "xyz"])
    assert answer.text == "go"
    assert [entry.token for entry in answer.logprobs] == answer.tokens == list(b"go")


# --- memory and failure --------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("big", "small"), ("small", "big"), ("big",)])
@pytest.mark.parametrize("step_tokens", [16, 128])
def test_a_prompt_that_never_fits_ends_with_an_error(
    order: tuple[str, ...], step_tokens: int
) -> None:
    prompts = {"big": b"a" * 67, "small": b"b" * 20}  # there are four blocks of 16
    with Rig(NOISE, context=70, kv_tokens=70, concurrency=2, step_tokens=step_tokens) as rig:
        rids = {name: rig.submit(prompts[name], max_tokens=3, ignore_eos=True) for name in order}
        answers = rig.run(limit=100)
        big = answers[rids["big"]]
        assert (big.finish, big.error and big.error[0]) == ("error", "kv_capacity")
        if "small" in rids:
            assert answers[rids["small"]].finish == "length"
        rig.assert_nothing_leaked()


@pytest.mark.parametrize("variant", ["blocks", "cells"])
def test_two_that_do_not_fit_together_take_turns(variant: str) -> None:
    path = f"{NOISE},variant={variant}"
    with Rig(path, context=96, kv_tokens=96, concurrency=2) as rig:
        rids = [rig.submit(bytes([65 + i]) * 30, max_tokens=50, ignore_eos=True) for i in range(2)]
        answers = rig.run()
        for i, rid in enumerate(rids):
            assert answers[rid].output == expected(
                path, bytes([65 + i]) * 30, max_tokens=50, ignore_eos=True
            )
        assert rig.core.scheduler.n_preemptions
        rig.assert_nothing_leaked()


def test_work_that_fails_three_times_is_given_up_and_the_rest_goes_on() -> None:
    with Rig(NOISE + ",fail_every=1") as rig:
        answer = rig.answer("abc", max_tokens=5)
        assert answer.finish == "error"
        assert answer.error is not None
        assert answer.error[0] == "step_failed"
        assert "too often" in answer.error[1]
        rig.assert_nothing_leaked()


def test_a_request_that_never_gets_further_is_given_up() -> None:
    path = NOISE + ",variant=states,fail_every=4"  # each failure sends it back to its beginning
    with Rig(path, step_tokens=4) as rig:
        answer = rig.answer("x" * 15, max_tokens=5)
        assert (answer.finish, answer.error and answer.error[0]) == ("error", "step_failed")
        assert 40 < rig.n_steps < 120
        rig.assert_nothing_leaked()


@pytest.mark.parametrize("depth", [0, 1])
def test_a_request_that_no_token_is_left_for_ends_with_an_error(depth: int) -> None:
    wrap = partial(Masking, mask=mask_of([], 300))
    with Rig(f"{NOISE},depth={depth}", wrap=wrap) as rig:
        answer = rig.answer("abc", max_tokens=5)
        assert (answer.finish, answer.error and answer.error[0]) == ("error", "no_token")
        assert answer.tokens == []
        rig.assert_nothing_leaked()


def test_cancelled_requests_leave_within_a_step(noise: Rig) -> None:
    rids = [noise.submit("abc" * i, max_tokens=100, ignore_eos=True) for i in range(1, 7)]
    for _ in range(5):
        noise.step()
    for rid in rids:
        noise.cancel(rid)
    noise.cancel(12345)
    noise.step()
    noise.assert_nothing_leaked()


def test_a_second_request_finds_the_first_ones_prefix(noise: Rig) -> None:
    prompt = b"The same beginning of more than two blocks. "
    first = noise.answer(prompt, max_tokens=10, ignore_eos=True)
    second = noise.answer(prompt + b"More", max_tokens=10, ignore_eos=True)
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.n_cached == 0
    assert second.usage.n_cached >= 32
    assert second.output == expected(NOISE, prompt + b"More", max_tokens=10, ignore_eos=True)
    assert noise.core.counters.n_cached_tokens == second.usage.n_cached
