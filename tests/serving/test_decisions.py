"""Pure decisions about engines: who is dead, who is replaced, what a line of output says."""

from __future__ import annotations

import logging

import pytest

from hearthd.serving.output_log import parse_line
from hearthd.serving.restart import (
    Decision,
    EngineEnd,
    GiveUp,
    Replace,
    RestartPolicy,
    after_end,
    backoff_seconds,
)
from hearthd.serving.vitals import Patience, Phase, Vitals, cause_of_death

PATIENCE = Patience(
    heartbeat_seconds=5, step_timeout_seconds=300, load_timeout_seconds=600, stop_seconds=2
)


def cause(phase: Phase, silence: float, **fields: object) -> str | None:
    vitals = Vitals(phase, 100.0)
    for name, value in fields.items():
        setattr(vitals, name, value)
    return cause_of_death(vitals, PATIENCE, 100.0 + silence)


def test_silence_kills_who_serves() -> None:
    assert cause(Phase.SERVING, 4.9) is None
    assert cause(Phase.SERVING, 5.1) == "gave no sign of life for 5 s"


def test_a_load_may_be_silent_for_longer() -> None:
    assert cause(Phase.LOADING, 599) is None
    assert cause(Phase.LOADING, 601) == "made no progress in loading for 600 s"


def test_a_step_that_never_ends_kills() -> None:
    assert cause(Phase.SERVING, 0.5, step_age_seconds=299.0) is None
    assert cause(Phase.SERVING, 0.5, step_age_seconds=301.0) == "hung in one step for 301 s"


def test_who_is_asked_to_stop_has_until_then() -> None:
    assert cause(Phase.STOPPING, 60, stop_by_seconds=161.0) is None
    assert cause(Phase.STOPPING, 60, stop_by_seconds=160.0) == "did not stop when asked"


def test_a_closed_socket_is_followed_by_the_end() -> None:
    assert cause(Phase.SERVING, 0.5, deaf=True) is None
    assert cause(Phase.SERVING, 1.5, deaf=True) == "closed its socket without ending"
    assert cause(Phase.LOADING, 1.5, deaf=True) == "closed its socket without ending"


def decide(served: float | None, n_losses: int = 0, ever_ready: bool = True) -> Decision:
    end = EngineEnd("engine_failed", "the engine died", served)
    return after_end(end, RestartPolicy(5, 60.0), n_losses=n_losses, ever_ready=ever_ready)


def test_what_never_loaded_is_not_tried_again() -> None:
    assert decide(None, ever_ready=False) == GiveUp("engine_failed", "the engine died")


def test_the_first_loss_is_replaced_at_once_and_later_ones_after_longer() -> None:
    assert decide(1.0) == Replace(0.0, 1)
    assert decide(1.0, 1) == Replace(0.5, 2)
    assert decide(1.0, 2) == Replace(1.0, 3)
    assert decide(None, 3) == Replace(2.0, 4)


def test_five_losses_in_a_row_are_too_many() -> None:
    decision = decide(1.0, 4)
    assert isinstance(decision, GiveUp)
    assert "lost 5 engines in a row" in decision.message


def test_an_engine_that_served_long_starts_a_new_row() -> None:
    assert decide(61.0, 4) == Replace(0.0, 1)


def test_the_wait_is_bounded() -> None:
    assert backoff_seconds(1) == 0.0
    assert backoff_seconds(100) == 30.0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("WARNING hearthd.engine.core step failed", (logging.WARNING, "hearthd.engine.core", "step failed")),
        ("llama_model_loader: loaded", (logging.INFO, "hearthd.engine", "llama_model_loader: loaded")),
        ("INFO", (logging.INFO, "hearthd.engine", "INFO")),
        ("Traceback (most recent call last):", (logging.INFO, "hearthd.engine", "Traceback (most recent call last):")),
    ],
)  # fmt: skip
def test_lines_of_an_engine(line: str, expected: tuple[int, str, str]) -> None:
    assert parse_line(line, logging.INFO) == expected


def test_a_continuation_keeps_the_level() -> None:
    assert parse_line("  File x", logging.ERROR)[0] == logging.ERROR
