"""Stepping: one decode step at a time, by the whole engine and by a bare llama_decode loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from hearth_bench.bare import BareLlama
from hearthd import wire
from hearthd.engine.core import EngineCore
from hearthd.engine.intake import Intake
from hearthd.engine.load_plan import plan_load
from hearthd.engine.loader import execute_load


class Stepper(Protocol):
    """A set of sequences that grow by one token each step."""

    def begin(self, prompts: Sequence[list[int]], n_steps: int) -> None:
        """Compute the prompts of new sequences; room for that many steps."""

    def step(self) -> None:
        """One token more for each sequence."""

    def end(self) -> None:
        """Drop the sequences."""


class EngineStepper:
    """The real EngineCore, and the encoding of what each step would send to hearthd."""

    def __init__(self, load: wire.Load, temperature: float = 0.0) -> None:
        """Load the model; raises BackendError."""
        plan = plan_load(load)
        self.core: EngineCore = execute_load(plan, load, lambda _: 1, lambda _: None)
        self.core.scheduler.drafter = None  # a step is to be one token
        self._intake = Intake(plan.model, context=plan.room.context)
        self.temperature = temperature
        self._n_submitted = 0
        self._open: list[int] = []

    def submit(self, prompt: list[int], n_tokens: int) -> int:
        """Queue a request that will not end by itself before n_tokens; returns its number."""
        self._n_submitted += 1
        rid = self._n_submitted
        frame = wire.Submit(
            rid=rid,
            sampling=wire.Sampling(temperature=self.temperature, seed=rid),
            tokens=prompt,
            max_tokens=n_tokens,
            ignore_eos=True,
        )
        self.core.add(self._intake.submit(frame))
        return rid

    def begin(self, prompts: Sequence[list[int]], n_steps: int) -> None:
        """See Stepper."""
        self._open = [self.submit(prompt, n_steps + 8 + len(prompts)) for prompt in prompts]
        silent = set(self._open)
        while silent:
            silent -= {delta.rid for delta in self.core.step()}

    def step(self) -> None:
        """See Stepper."""
        deltas = self.core.step()
        if deltas:
            wire.encode(wire.Step(deltas))

    def end(self) -> None:
        """See Stepper."""
        for rid in self._open:
            self.core.cancel(rid)
        self._open = []

    def count_tokens(self, messages: list[dict[str, Any]]) -> int:
        """Tokens of a chat as its template renders it."""
        return len(self._intake.encode(wire.Encode(rid=0, messages=messages)).tokens)

    def first_text(self, messages: list[dict[str, Any]]) -> tuple[float, int]:
        """Seconds from a rendered and tokenized chat to its first text, and the prompt's tokens."""
        self._n_submitted += 1
        rid = self._n_submitted
        arrival = self._intake.submit(
            wire.Submit(
                rid=rid,
                sampling=wire.Sampling(temperature=0.0),
                messages=messages,
                max_tokens=4,
                min_tokens=4,
                ignore_eos=True,
            )
        )
        began = time.perf_counter()
        self.core.add(arrival)
        while not any(delta.text for delta in self.core.step()):
            pass
        seconds = time.perf_counter() - began
        self.core.cancel(rid)
        return seconds, arrival.request.n_prompt

    def close(self) -> None:
        """Free the model."""
        self.core.pipeline.close()


class BareStepper:
    """The decode call and the addresses of its logits; `greedy` also looks for the best of each row.

    Without `greedy` the next tokens are taken as known, which no real loop can do: nothing that
    generates text can be faster.
    """

    def __init__(self, llama: BareLlama) -> None:
        self._llama = llama
        self.greedy = False
        self._tokens: list[int] = []
        self._position = 0

    def begin(self, prompts: Sequence[list[int]], n_steps: int) -> None:
        """See Stepper."""
        self._llama.clear()
        self._tokens = [self._llama.prefill(i, prompt) for i, prompt in enumerate(prompts)]
        self._position = len(prompts[0])

    def step(self) -> None:
        """See Stepper."""
        llama, tokens = self._llama, self._tokens
        llama.set_rows(tokens, self._position)
        llama.decode()
        self._position += 1
        rows = [llama.logits(i) for i in range(len(tokens))]
        if self.greedy:
            self._tokens = [int(row.argmax()) for row in rows]

    def end(self) -> None:
        """See Stepper."""


def take_turns(
    a: Stepper,
    b: Stepper,
    prompts: Sequence[list[int]],
    *,
    n_steps: int,
    turn: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[float]], list[list[float]]]:
    """Both grow the same prompts by n_steps, `turn` steps of a, then as many of b; seconds by turn and step."""
    for stepper in (a, b):
        stepper.begin(prompts, n_steps)
    times: tuple[list[list[float]], list[list[float]]] = ([], [])
    for _ in range(n_steps // turn):
        for stepper, seconds in zip((a, b), times, strict=True):
            seconds.append([_timed(stepper, clock) for _ in range(turn)])
    for stepper in (a, b):
        stepper.end()
    return times


def _timed(stepper: Stepper, clock: Callable[[], float]) -> float:
    began = clock()
    stepper.step()
    return clock() - began


def engine_load(path: Path, *, n_seq: int, context: int, threads: int) -> wire.Load:
    """How the engine is told to load a model for a bench."""
    return wire.Load(
        name="bench",
        path=str(path),
        context=context,
        concurrency=n_seq,
        kv_tokens=n_seq * context,
        threads=threads,
    )
