"""EagerDrafter: asks a draft model in every step, whether it pays or not."""

from __future__ import annotations

from collections.abc import Sequence

from hearthd.engine.drafting.drafter import DraftReport
from hearthd.engine.drafting.model import DraftModel
from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan


class EagerDrafter:
    """Follows every request with at most `n_rows` rows in a step, and guesses `n_tokens` for each."""

    def __init__(self, model: DraftModel, *, n_tokens: int = 4, n_rows: int = 64) -> None:
        self.model = model
        self.n_tokens = n_tokens
        self.n_rows = n_rows
        self.n_proposed = 0
        self.n_accepted = 0

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """The model's guesses."""
        self.model.follow([r for r in requests if not self.model.is_near(r)], self.n_rows)
        n_each = max(0, min(self.n_tokens, n_spare // len(requests)))
        guessed = [i for i, limit in enumerate(limits) if limit > 0] if n_each else []
        drafts: list[list[int]] = [[] for _ in requests]
        for i, draft in zip(
            guessed, self.model.guess([requests[i] for i in guessed], n_each), strict=True
        ):
            assert len(draft) <= min(n_each, limits[i])
            drafts[i] = draft
        return drafts

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """Counts; a request that has gone meanwhile gained nothing."""
        for request, n_drafted, gained in zip(plan.requests, plan.drafts, n_gained, strict=True):
            if n_drafted and gained:
                self.n_proposed += n_drafted
                has_ended = request.tokens[-1] in request.limits.end_ids
                self.n_accepted += min(n_drafted, gained if has_ended else gained - 1)

    def leave(self, request: Request) -> None:
        """See Drafter."""
        self.model.leave(request)

    def forget(self, request: Request) -> None:
        """See Drafter."""
        self.model.forget(request)

    def report(self) -> DraftReport:
        """See Drafter."""
        return DraftReport(failure=self.model.failure)

    def close(self) -> None:
        """See Drafter."""
        self.model.close()
