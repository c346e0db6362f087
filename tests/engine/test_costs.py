"""What steps cost, and how many rows of prompts that leaves beside those who decode."""

from __future__ import annotations

import pytest

from hearthd.engine.costs import FIRST_PROMPT_ROWS, LEAST_PROMPT_ROWS, PromptCosts


def measured(plain: float, row: float, *, n_decoding: int = 4, n_prompt: int = 32) -> PromptCosts:
    costs = PromptCosts()
    for _ in range(30):
        costs.observe(n_decoding, 0, plain)
        costs.observe(n_decoding, n_prompt, plain + n_prompt * row)
    return costs


def test_few_rows_before_anything_was_measured() -> None:
    assert PromptCosts().prompt_rows(3, 1, 0.05) == FIRST_PROMPT_ROWS


def test_what_is_left_of_the_target() -> None:
    costs = measured(plain=0.02, row=0.001)
    assert costs.prompt_rows(4, 1, 0.05) == pytest.approx(30, abs=1)
    assert costs.prompt_rows(4, 1, 0.12) == pytest.approx(100, abs=1)


def test_a_slow_model_may_take_some_plain_steps() -> None:
    costs = measured(plain=0.2, row=0.005)
    assert costs.prompt_rows(4, 1, 0.05) == pytest.approx(360, abs=2)
    assert costs.prompt_rows(4, 4, 0.05) == pytest.approx(600, abs=3)
    assert costs.prompt_rows(4, 1, 0.41) == pytest.approx(42, abs=2)  # a target that can be held


def test_a_step_wider_than_any_before_costs_in_proportion() -> None:
    costs = measured(plain=0.03, row=0.001)
    assert costs.prompt_rows(8, 1, 0.05) == pytest.approx(480, abs=4)


def test_rows_of_a_step_that_is_to_be_short() -> None:
    costs = PromptCosts()
    assert costs.rows_alone(0.05) == FIRST_PROMPT_ROWS
    costs.observe(0, 100, 0.2)
    assert costs.rows_alone(0.05) == 25
    assert costs.rows_alone(0.001) == LEAST_PROMPT_ROWS


def test_prompts_get_on_however_slow() -> None:
    costs = measured(plain=0.01, row=0.1)
    assert costs.prompt_rows(4, 1, 0.001) == LEAST_PROMPT_ROWS


def test_without_a_plain_step_rows_are_found_out_step_by_step() -> None:
    costs, n_rows = PromptCosts(), 32
    for _ in range(100):
        costs.observe(200, n_rows, 0.01 + 1e-4 * n_rows)
        n_rows = costs.prompt_rows(200, 1, 0.05)
    assert n_rows == pytest.approx(400, rel=0.1)


def test_one_hiccup_is_not_the_cost() -> None:
    costs = measured(plain=0.02, row=0.001)
    before = costs.prompt_rows(4, 1, 0.05)
    costs.observe(4, 32, 30.0)
    assert costs.prompt_rows(4, 1, 0.05) > before / 4
    for _ in range(20):
        costs.observe(4, 32, 0.052)
    assert costs.prompt_rows(4, 1, 0.05) == pytest.approx(before, abs=2)


def test_the_speed_of_prompts_alone_is_that_of_whole_chunks() -> None:
    costs = PromptCosts()
    costs.observe(0, 1, 0.02)
    costs.observe(4, 100, 1.0)
    assert costs.row_seconds is None
    costs.observe(0, 500, 1.0)
    assert costs.row_seconds == 0.002


def test_steps_too_fast_for_the_clock_say_nothing() -> None:
    assert measured(0.0, 0.0).prompt_rows(4, 1, 0.05) == FIRST_PROMPT_ROWS
