"""Usage: tokens of a request, each prompt counted once however many choices it has."""

from __future__ import annotations

import msgspec

from hearthd import wire


class PromptDetails(msgspec.Struct, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one HTTP request, in OpenAI's names."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class UsageSum:
    """Adds up the usage of choices; those of one prompt stand next to each other."""

    __slots__ = ("_latest", "_n_choices")

    def __init__(self, *, n_choices: int) -> None:
        """`n_choices`: of each prompt."""
        self._n_choices = n_choices
        self._latest: dict[int, wire.Usage] = {}

    def add(self, choice: int, delta: wire.Delta) -> None:
        """Take note of what a delta says; the last one of a choice counts."""
        if delta.usage is not None:
            self._latest[choice] = delta.usage

    def total(self) -> Usage:
        """Prompts of the first choice of each, outputs of all."""
        firsts = [usage for choice, usage in self._latest.items() if choice % self._n_choices == 0]
        n_prompt = sum(usage.n_prompt for usage in firsts)
        n_output = sum(usage.n_output for usage in self._latest.values())
        n_cached = sum(usage.n_cached for usage in firsts)
        return Usage(n_prompt, n_output, n_prompt + n_output, PromptDetails(n_cached))
