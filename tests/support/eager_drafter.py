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
        ready = self.model.follow(requests, self.n_rows)
        depths = []
        for request, limit, is_ready in zip(requests, limits, ready, strict=True):
            depth = min(limit, self.n_tokens, n_spare, self.model.room(request)) if is_ready else 0
            depths.append(max(0, depth))
            n_spare -= max(0, depth)
        drafts = self.model.guess(requests, depths)
        assert all(len(d) <= depth for d, depth in zip(drafts, depths, strict=True))
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
