"""Guessing: the same answers without guesses, with the text's own, and with a draft model's, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from hearth_backends.canary import tasks, tokens
from hearth_bench.quiet import quiet_collector
from hearth_bench.stats import Spread, ratios, spread
from hearthd import wire
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.drafting.offer import ModelOffer
from hearthd.engine.intake import Intake
from hearthd.engine.load_plan import plan_load
from hearthd.engine.loader import execute_load

PLAIN, LOOKUP, MODEL = "plain", "lookup", "model"
WAYS = (PLAIN, LOOKUP, MODEL)

PROMPTS: dict[str, Callable[[Random], str]] = {
    "sing": lambda _: "Sing!",  # by heart: nothing of it stands in the prompt
    "repeat": lambda rng: f"Repeat: {' '.join(tasks.word(rng) for _ in range(8))}",
    "count": lambda rng: f"Continue: {' '.join(str(n) for n in _three(rng))}",
}


def _three(rng: Random) -> range:
    first = rng.randrange(1000, 9000)
    return range(first, first + 3)


@dataclass(slots=True)
class Measured:
    """Tokens a second by round, the texts, and what the gate says in the end."""

    rates: list[float] = field(default_factory=list)
    texts: list[list[int]] = field(default_factory=list)
    guessed: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    gain: float | None = None


class GuessingEngine:
    """One engine whose model is guessed for in each of three ways; its weights are loaded once."""

    def __init__(self, load: wire.Load, temperature: float = 0.0) -> None:
        """Load both models; raises BackendError."""
        plan = plan_load(load)
        self._core = execute_load(plan, load, lambda _: 1, lambda _: None)
        loaded = self._core.scheduler.drafter
        if not isinstance(loaded, DraftGate) or loaded.offer is None:
            raise ValueError("the load has no draft model")
        self._model = loaded.offer.model
        self._intake = Intake(plan.model, context=plan.room.context)
        self._temperature = temperature
        self._n_submitted = 0

    def measure(self, task: str, n_requests: int, n_rounds: int, seed: int) -> dict[str, Measured]:
        """Rounds of so many requests at once, every way in each, a different one first in turns.

        Gates are fresh: what they spend to find out is in the result.
        """
        gates = {
            PLAIN: None,
            LOOKUP: DraftGate(),
            MODEL: DraftGate(ModelOffer(self._model)),
        }
        found = {way: Measured() for way in WAYS}
        with quiet_collector():
            for n in range(n_rounds):
                rng = Random(1000 * seed + n)
                questions = [PROMPTS[task](rng) for _ in range(n_requests)]
                prompts = [tokens.prompt([tasks.user(question)]) for question in questions]
                for way in (*WAYS[n % 3 :], *WAYS[: n % 3]):
                    self._core.scheduler.drafter = gates[way]
                    seconds, texts = self._answer(prompts)
                    found[way].rates.append(sum(map(len, texts)) / seconds)
                    found[way].texts += texts
        for way, gate in gates.items():
            if gate is not None:
                report = gate.report()
                found[way].guessed, found[way].accepted = report.guessed, report.accepted
                found[way].gain = report.gain
        return found

    def _answer(self, prompts: Sequence[list[int]]) -> tuple[float, list[list[int]]]:
        """Seconds from the first submit to the last token, and the answers; no prefix is cached."""
        texts: dict[int, list[int]] = {}
        began = time.perf_counter()
        for prompt in prompts:
            self._n_submitted += 1
            rid = self._n_submitted
            texts[rid] = []
            frame = wire.Submit(
                rid=rid,
                sampling=wire.Sampling(temperature=self._temperature, seed=len(texts)),
                tokens=prompt,
                max_tokens=400,
                salt=str(rid),
            )
            self._core.add(self._intake.submit(frame))
        while self._core.has_work:
            for delta in self._core.step():
                texts[delta.rid] += delta.tokens
        return time.perf_counter() - began, list(texts.values())

    def close(self) -> None:
        """Free both models."""
        self._core.scheduler.drafter = None
        self._core.close()
        self._model.close()


def gain(found: dict[str, Measured], way: str) -> Spread | None:
    """Tokens a second of a way over those without guesses, round by round."""
    return spread(ratios(found[way].rates, found[PLAIN].rates))


def guessing_load(path: Path, draft: Path, *, n_seq: int, threads: int) -> wire.Load:
    """How the engine is told to load both models."""
    return wire.Load(
        name="bench",
        path=str(path),
        context=512,
        concurrency=n_seq,
        kv_tokens=n_seq * 512,
        threads=threads,
        draft=wire.DraftConfig("draft", str(draft), threads=threads),
    )
