"""Selection: requests picked for a step while its budget of rows lasts."""

from __future__ import annotations

from hearth_backends.kv.contract import Want
from hearthd.engine.request import Request


class Selection:
    """Requests picked for a step while its budget lasts."""

    __slots__ = (
        "_adapters", "_prompt_rows", "drafts", "is_plain", "n_prompt_rows", "requests", "rows_left",
        "share_prompts", "wants", "wants_left",
    )  # fmt: skip

    def __init__(self, n_rows: int, n_wants: int, adapters: frozenset[int] | None = None) -> None:
        """`adapters`: of the requests it is for; None: any."""
        self._adapters = adapters
        self.requests: list[Request] = []
        self.wants: list[Want] = []
        self.drafts: list[int] = []
        self.is_plain = True  # every request has one row, and samples after it
        self.rows_left = n_rows
        self.wants_left = n_wants
        self.share_prompts = False  # several prompts want rows
        self.n_prompt_rows = 0  # that prompts have
        self._prompt_rows: int | None = None  # that prompts may have; None: what is left

    def takes(self, request: Request) -> bool:
        """Whether a request's adapter is among those of the step."""
        return self._adapters is None or request.adapter in self._adapters

    def bound_prompts(self, n_rows: int | None) -> None:
        """Prompts get no more rows than this."""
        self._prompt_rows = n_rows

    def prompt_rows_left(self, least: int) -> int:
        """Rows that one prompt may have: where they are few and several prompts want some, half of them.

        `least`: fewer than these are not halved any further.
        """
        if self._prompt_rows is None or self._prompt_rows >= self.rows_left:
            return self.rows_left
        if self.share_prompts:
            return min(self._prompt_rows, max(least, self._prompt_rows // 2))
        return self._prompt_rows

    def add_prompt(self, request: Request, n_rows: int, n_wanted: int) -> None:
        """A chunk of a prompt."""
        self.add(request, n_rows, n_wanted)
        self.n_prompt_rows += n_rows
        if request.recall is not None:  # room is wanted for more than is computed
            self.wants[-1] = Want(request, request.recall.n_tokens + n_rows)
        if self._prompt_rows is not None:
            self._prompt_rows -= n_rows

    def end_prompt(self, saturating_rows: int | None) -> None:
        """The last chunk was the end of its prompt.

        Where more rows would cost in proportion, the step ends with it: the others' first tokens come no
        later for it, and this one's sooner.
        """
        if saturating_rows is not None and self.n_prompt_rows >= saturating_rows:
            self._prompt_rows = 0

    def add(self, request: Request, n_rows: int, n_wanted: int, n_draft: int = 0) -> None:
        self.is_plain = False
        self.requests.append(request)
        self.wants.append(Want(request, n_rows))
        self.drafts.append(n_draft)
        self.rows_left -= n_rows
        self.wants_left -= n_wanted

    def add_plain(self, requests: list[Request], wants: list[Want]) -> None:
        """One row and one sample for each."""
        self.requests += requests
        self.wants += wants
        self.drafts += [0] * len(requests)
        self.rows_left -= len(requests)
        self.wants_left -= len(requests)

    def drop(self, request: Request) -> None:
        """Take a request out again; its budget stays spent, a smaller step does no harm."""
        if request in self.requests:
            i = self.requests.index(request)
            del self.requests[i], self.wants[i], self.drafts[i]

    def drop_drafts(self) -> bool:
        """Guess nothing after all, to need less memory; False where nothing was guessed."""
        if not any(self.drafts):
            return False
        for i, n_draft in enumerate(self.drafts):
            request, n_rows = self.wants[i]
            self.wants[i] = Want(request, n_rows - n_draft)
            if n_draft:
                self.requests[i].draft = []
            self.drafts[i] = 0
        return True
