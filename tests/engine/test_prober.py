"""A probe is one token really computed, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from engine_rig import Rig
from shells import StageShell

from hearth_backends.base import Batch, Handle, Hidden, Stage

PROMPT = bytes(range(65, 65 + 40))


class Recorder(StageShell):
    """Notes how many rows each step has."""

    def __init__(self, inner: Stage, steps: list[int]) -> None:
        super().__init__(inner)
        self._steps = steps

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        self._steps.append(len(np.asarray(batch.tokens)))
        return super().submit(batch, x)


def recording(steps: list[int]) -> Callable[[Stage], Stage]:
    return lambda stage: Recorder(stage, steps)


def probe(rig: Rig, number: int) -> list[int]:
    rig.core.probe(number)
    while rig.core.has_work:
        assert not rig.step()
    return rig.core.take_probed()


def test_an_idle_engine_computes_a_token() -> None:
    steps: list[int] = []
    with Rig("sim:layers=1", wrap=recording(steps)) as rig:
        assert probe(rig, 7) == [7]
        assert steps == [1]
        assert rig.core.take_probed() == []
        counters = rig.core.counters
        assert (counters.n_steps, counters.n_output_tokens, counters.n_prompt_tokens) == (1, 0, 0)
        rig.assert_nothing_leaked()


@pytest.mark.parametrize("variant", ["blocks", "slots", "cells", "states"])
@pytest.mark.parametrize("concurrency", [1, 2, 4])
@pytest.mark.parametrize("depth", [0, 1])
def test_prefixes_that_wait_for_their_next_turn_stay(
    variant: str, concurrency: int, depth: int
) -> None:
    """As many chats as have a seat, and a hundred probes before their next turn."""
    steps: list[int] = []
    path = f"sim:layers=1,variant={variant},depth={depth}"

    def cached_by_turn(n_probes: int) -> list[int]:
        with Rig(path, concurrency=concurrency, kv_tokens=1024, wrap=recording(steps)) as rig:
            chats = [list(bytes([97 + i]) + PROMPT) for i in range(concurrency)]
            for i, chat in enumerate(chats):
                answer = rig.answer(chat, max_tokens=20, ignore_eos=True)
                chats[i] = chat + answer.tokens + list(b" and then?")
            del steps[:]
            for number in range(n_probes):
                assert probe(rig, number) == [number]
            assert n_probes <= len(steps) <= n_probes + 1  # states end chunks where they are saved
            assert sum(steps) <= 17 * n_probes
            cached = [rig.answer(chat, max_tokens=2).usage for chat in chats]
            rig.assert_nothing_leaked()
            return [usage.n_cached for usage in cached if usage is not None]

    before, after = cached_by_turn(0), cached_by_turn(100)
    assert min(before) > 0
    assert all(a >= b for a, b in zip(after, before, strict=True))


def test_a_busy_engine_answers_with_its_own_work() -> None:
    steps: list[int] = []
    with Rig("sim:layers=1", wrap=recording(steps)) as rig:
        rig.submit(b"busy", max_tokens=10, ignore_eos=True)
        rig.step()
        rig.core.probe(1)
        assert rig.core.take_probed() == []
        rig.step()
        assert rig.core.take_probed() == [1]
        rig.run()
        assert steps == [4] + [1] * 9


def test_work_that_comes_takes_the_place_of_a_probe() -> None:
    steps: list[int] = []
    with Rig("sim:layers=1", wrap=recording(steps)) as rig:
        rig.core.probe(1)
        rig.submit(b"work", max_tokens=1, ignore_eos=True)
        rig.run()
        assert steps == [4]
        assert rig.core.take_probed() == [1]
        rig.assert_nothing_leaked()


def test_a_step_that_fails_is_no_answer() -> None:
    with Rig("sim:layers=1,fail_every=1") as rig:
        assert probe(rig, 1) == []
        assert rig.core.counters.n_step_failures == 1
        rig.assert_nothing_leaked()


def test_a_probe_goes_on_from_what_is_still_there() -> None:
    with Rig("sim:layers=1", context=64, kv_tokens=64, concurrency=1) as rig:
        rig.answer(list(PROMPT), max_tokens=23, ignore_eos=True)
        assert probe(rig, 1) == [1]  # its tokens fill the context: one of its own
        rig.answer(list(PROMPT), max_tokens=5, ignore_eos=True)
        assert probe(rig, 2) == [2]
        again = rig.answer(list(PROMPT), max_tokens=5, ignore_eos=True)
        assert again.usage is not None
        assert again.usage.n_cached >= 32
        rig.assert_nothing_leaked()
