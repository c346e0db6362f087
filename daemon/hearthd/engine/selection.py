"""Selection: requests picked for a step while its budget of rows lasts."""

from __future__ import annotations

from hearth_backends.base import Want
from hearthd.engine.request import Request


class Selection:
    """Requests picked for a step while its budget lasts."""

    __slots__ = ("drafts", "is_plain", "requests", "rows_left", "wants", "wants_left")

    def __init__(self, n_rows: int, n_wants: int) -> None:
        self.requests: list[Request] = []
        self.wants: list[Want] = []
        self.drafts: list[int] = []
        self.is_plain = True  # every request has one row, and samples after it
        self.rows_left = n_rows
        self.wants_left = n_wants

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
