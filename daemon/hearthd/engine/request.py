"""Request: one generation on its way through the engine; a sequence to the stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from hearth_backends.base import SamplingParams
from hearth_backends.kv.hashing import HashChain
from hearthd.engine.grammar import Grammar
from hearthd.engine.prefixes.file import SavedPrefix


class RequestState(Enum):
    """Where a request is; FINISHED ones leave once no step in flight names them."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a request ends."""

    max_output: int
    min_output: int = 0
    end_ids: frozenset[int] = frozenset()  # tokens that end it
    banned_early: tuple[int, ...] = ()  # end tokens, not to be sampled before min_output
    stop: tuple[str, ...] = ()  # strings that end it
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class Priority:
    """What the scheduler orders by."""

    level: int = 0  # higher goes first
    key: str = ""
    weight: float = 1.0
    deadline_seconds: float | None = None
    arrived_seconds: float = 0.0


@dataclass(slots=True)
class Account:
    """What one key was served within one class; kept by `FairShare`."""

    cost: float  # of a token: 1 / weight
    served: float = 0.0  # virtual tokens
    n_active: int = 0  # requests that wait or run


@dataclass(frozen=True, slots=True)
class Recalled:
    """The first n_tokens of a saved prefix, from which a request goes on."""

    saved: SavedPrefix
    n_tokens: int


@dataclass(slots=True, eq=False)
class Request:
    """Tokens, how far they are computed, and what was asked for.

    `n_computed` chases `len(tokens)` (+ drafts); `n_inflight` rows are planned and not committed;
    `n_unknown` sampled tokens are still on the device (asynchronous stages).
    """

    id: int
    tokens: list[int]
    n_prompt: int
    params: SamplingParams
    limits: Limits
    chain: HashChain
    priority: Priority = field(default_factory=Priority)
    shares: bool = True
    scores_prompt: bool = False  # log-probabilities of the prompt's tokens are wanted
    grammar: Grammar | None = None  # of the output; has taken in what is in `tokens`
    adapter: int = 0  # number of its LoRA adapter; 0: none

    state: RequestState = RequestState.WAITING
    n_computed: int = 0
    n_inflight: int = 0
    n_unknown: int = 0
    n_cached: int = 0  # of the first admission
    n_scored: int = 0  # prompt tokens whose log-probability is known
    n_preempted: int = 0
    n_reached: int = 0  # most it had computed when a step of it failed
    n_failed: int = 0  # steps that failed since it got that far
    draft: list[int] = field(default_factory=list)
    started_seconds: float | None = None
    order: int = 0  # of arrival in the scheduler
    level: int = 0  # of its class, or of a higher one that gave it a turn
    account: Account | None = None  # of its key, while it waits or runs
    queued_seconds: float = 0.0  # when it arrived in the scheduler
    may_recall: bool = True  # no step of it that began with a saved prefix has failed
    fetched: SavedPrefix | None = None  # from disk, for its admission
    recall: Recalled | None = None  # to begin with, from its admission to its first step
    n_most: int = field(init=False)  # tokens it may have in the end

    def __post_init__(self) -> None:
        self.n_most = self.n_prompt + self.limits.max_output
        self.level = self.priority.level

    @property
    def block_hashes(self) -> Sequence[bytes]:
        """Chained hashes of the full blocks of `tokens`."""
        return self.chain.upto(self.tokens)

    @property
    def n_given(self) -> int:
        """Tokens that are computed, or will be there without being computed."""
        return self.n_computed + (self.recall.n_tokens if self.recall is not None else 0)

    @property
    def n_output(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.n_prompt

    @property
    def needs_host_token(self) -> bool:
        """Whether a next step can be planned only once the last token is known here."""
        return self.params.penalises or self.grammar is not None
