"""Widths: how many guessed tokens a step should carry, from chances and measured costs; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hearthd.engine.costs import StepCosts

LEAST_GAIN = 1.03
"""What drafting must promise over not drafting; below it a step carries no guesses."""
MAX_DRAFT_TOKENS = 8


class Widths(NamedTuple):
    """Guessed tokens for each request, the tokens that the step may bring, and its gain over a plain one."""

    widths: list[int]
    tokens: float
    gain: float


def best_widths(chances: Sequence[Sequence[float]], cost: StepCosts, n_spare: int) -> Widths:
    """How many guessed tokens each request should carry, so that tokens for each second are most.

    `chances[i][j]`: that token j of request i and all before it stand. Tokens are added one by one, the
    likeliest first; of all those prefixes the best is taken, if it promises LEAST_GAIN over none at all.
    A step is at most twice as wide as any that was measured. (Row by row, none would come past widths
    that do not pay: processors compute rows four at a time, or eight.)
    """
    n_requests = len(chances)
    n_most = 2 * max(cost.widest, n_requests)
    widths = [0] * n_requests
    plain_seconds = cost.of(n_requests)
    if plain_seconds is None:
        return Widths(widths, n_requests, 1.0)
    candidates = sorted(
        ((chance, i) for i, row in enumerate(chances) for chance in row),
        key=lambda candidate: -candidate[0],
    )[: max(0, n_spare)]
    best, best_gain = 0, LEAST_GAIN
    tokens = float(n_requests)
    for m, (chance, _) in enumerate(candidates, start=1):
        tokens += chance
        seconds = cost.of(n_requests + m)
        if seconds is None:
            break
        gain = (tokens / seconds) / (n_requests / plain_seconds)
        if gain > best_gain:
            best, best_gain = m, gain
        if n_requests + m >= n_most:
            break
    for _, i in candidates[:best]:
        widths[i] += 1
    tokens = n_requests + sum(chance for chance, _ in candidates[:best])
    return Widths(widths, tokens, best_gain if best else 1.0)


class Depth(NamedTuple):
    """Of the requests that a draft model may guess for: which ones, how many tokens each, and the gain."""

    chosen: list[int]
    n_tokens: int
    gain: float


def best_depth(
    chances: Sequence[Sequence[float]],
    others: Widths,
    cost: StepCosts,
    draft_seconds: Callable[[int], float],
    n_spare: int,
) -> Depth:
    """How far a draft model should guess, and for whom, so that tokens for each second are most.

    `chances`: as for `best_widths`, empty where it may not guess; `others`: what those requests and the
    rest carry without it; `draft_seconds`: of a step of the draft model, by its requests. All that are
    chosen are guessed for equally far, the likeliest first. The gain is 1 where nobody is chosen.
    """
    nobody = Depth([], 0, 1.0)
    n_requests = len(chances)
    plain_seconds = cost.of(n_requests)
    order = sorted((i for i, row in enumerate(chances) if row), key=lambda i: -chances[i][0])
    if plain_seconds is None or not order:
        return nobody
    best = nobody
    n_carried = n_requests + sum(others.widths)
    into_unknown: set[int] = set()  # numbers of requests for which a wider step is unknown
    for depth in range(1, max(len(chances[i]) for i in order) + 1):
        tokens, n_rows = others.tokens, n_carried
        for m, i in enumerate(order, start=1):
            reach = chances[i][:depth]
            tokens += sum(reach)
            n_rows += len(reach)
            if n_rows - n_carried > n_spare:
                break
            if m in into_unknown:
                continue
            seconds = (cost.of(n_rows) or plain_seconds) + depth * draft_seconds(m)
            gain = (tokens / seconds) / (n_requests / plain_seconds)
            if gain > max(best.gain, LEAST_GAIN):
                best = Depth(order[:m], depth, gain)
            if not cost.known(n_rows):
                into_unknown.add(m)
    return best
