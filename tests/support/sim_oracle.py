"""What a request must get from the simulated model, computed without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec
import numpy as np

from hearth_backends.base import F32, SamplingBatch, SamplingParams
from hearth_backends.sampling import sample
from hearth_backends.sim.language import SimLanguage, oracle, oracle_logits
from hearth_backends.sim.options import parse_options
from hearth_backends.sim.tokenizer import END_OF_TEXT, IM_END, ByteTokenizer
from hearthd import wire
from hearthd.engine.drafting.drafter import DraftReport
from hearthd.engine.grammar import GrammarFactory
from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan

END_IDS = frozenset((IM_END, END_OF_TEXT))


@lru_cache
def language_of(path: str, adapter: str = "") -> SimLanguage:
    """The language of a "sim:" path, and of an adapter's path."""
    return SimLanguage(parse_options(path), adapter)


def params_of(sampling: wire.Sampling) -> SamplingParams:
    """Sampling as backends know it."""
    fields = msgspec.structs.asdict(sampling)
    return SamplingParams(**{**fields, "logit_bias": tuple(sampling.logit_bias)})


def expected(
    path: str,
    prompt: Sequence[int],
    sampling: wire.Sampling | None = None,
    *,
    max_tokens: int,
    min_tokens: int = 0,
    ignore_eos: bool = False,
    adapter: str = "",
) -> list[int]:
    """The output of a request alone, its end token included."""
    return oracle(
        language_of(path, adapter),
        prompt,
        params_of(sampling or wire.Sampling(temperature=0.0)),
        max_tokens,
        end_ids=frozenset() if ignore_eos else END_IDS,
        min_output=min_tokens,
    )


def expected_logprobs(path: str, tokens: Sequence[int]) -> F32:
    """Log-probabilities [n, n_vocab] of what follows each of n tokens."""
    logits = oracle_logits(language_of(path), tokens).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits.astype(np.float32)


def expected_under(
    path: str,
    prompt: Sequence[int],
    sampling: wire.Sampling,
    constraint: wire.Constraint,
    *,
    max_tokens: int,
) -> list[int]:
    """The output of a request alone that has to be something."""
    options = language_of(path).options
    grammar = GrammarFactory(ByteTokenizer(options.vocab, add_bos=bool(options.bos))).compile(
        constraint
    )
    output: list[int] = []
    mask = np.zeros((1, grammar.n_words), np.uint32)
    while len(output) < max_tokens and not grammar.is_over:
        grammar.mask(mask[0])
        history = [*prompt, *output]
        batch = SamplingBatch(
            params=(params_of(sampling),),
            positions=np.array([len(output)], np.int64),
            targets=np.array([-1], np.int32),
            history=(history,),
            n_prompt=(len(prompt),),
            banned=((),),
            mask=mask,
        )
        logits = oracle_logits(language_of(path), history)[-1:]
        output.append(int(sample(logits, batch).tokens[0]))
        if output[-1] in END_IDS or not grammar.accept(output[-1]):
            break
    return output


class ScriptedDrafter:
    """Knows what requests will say, and gets every n-th guess wrong."""

    def __init__(self, outputs: Mapping[int, Sequence[int]], wrong_every: int) -> None:
        """`outputs`: by request number."""
        self.outputs = outputs
        self.wrong_every = wrong_every
        self.n_proposed = 0
        self.n_accepted = 0

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """The next tokens of each, some of them wrong."""
        drafts: list[list[int]] = []
        for request, limit in zip(requests, limits, strict=True):
            draft = self._next(request, max(0, min(limit, n_spare)))
            n_spare -= len(draft)
            drafts.append(draft)
        return drafts

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """Scripted drafters learn nothing, they count: a sample more than the plain one is a guess that stood."""
        for n_guessed, n in zip(plan.drafts, n_gained, strict=True):
            self.n_accepted += max(0, n - 1) if n_guessed else 0

    def leave(self, request: Request) -> None:
        """Nor do they care where requests sit."""

    def forget(self, request: Request) -> None:
        """Nor do they remember."""

    def report(self) -> DraftReport:
        """Nor do they count."""
        return DraftReport()

    def close(self) -> None:
        """They hold nothing."""

    def _next(self, request: Request, limit: int) -> list[int]:
        draft: list[int] = []
        for token in self.outputs.get(request.id, ())[request.n_output :][:limit]:
            self.n_proposed += 1
            wrong = self.wrong_every and self.n_proposed % self.wrong_every == 0
            draft.append(ord("?") if wrong and token != ord("?") else token)
        return draft
