"""FairShare: how many tokens each key was served, so that the one with the least comes next.

A virtual counter of served tokens for each key of each class, as in "Fairness in Serving Large Language
Models" (Sheng et al., OSDI 2024): it grows by the tokens computed, over the key's weight. Who comes back
from doing nothing starts where the others are: nobody saves up a claim, or is made to pay for time in
which nobody else wanted anything.
"""

from __future__ import annotations

from typing import Protocol

from hearthd.engine.request import Account, Priority


class Sharer(Protocol):
    """What belongs to a key, and takes part while it wants something."""

    account: Account | None

    @property
    def priority(self) -> Priority: ...


class FairShare:
    """Keeps the accounts of those that want something, and of those that are ahead."""

    def __init__(self) -> None:
        self.contended = False  # several keys of one class are known: only then it matters
        self._accounts: dict[tuple[int, str], Account] = {}
        self._floors: dict[
            int, float
        ] = {}  # where a class was when nobody wanted anything any more

    def join(self, request: Sharer) -> None:
        """A request comes: its key takes part from now on."""
        level, key = request.priority.level, request.priority.key
        account = self._accounts.get((level, key))
        if account is None:
            account = self._accounts[level, key] = Account(1.0)
        if not account.n_active:
            account.served = max(account.served, self._floor(level))
        account.cost = 1.0 / request.priority.weight
        account.n_active += 1
        request.account = account
        self._look()

    def leave(self, request: Sharer) -> None:
        """A request is over."""
        account, level = request.account, request.priority.level
        if account is None:
            return
        request.account = None
        account.n_active -= 1
        accounts = self._of(level)
        if not any(a.n_active for a in accounts):
            self._floors[level] = max(self._floors.get(level, 0.0), *(a.served for a in accounts))
        self._look()

    def charge(self, request: Sharer, n_tokens: int) -> None:
        """Tokens were computed for a request; fewer than none are given back."""
        if request.account is not None:
            request.account.served += n_tokens * request.account.cost

    def served(self, request: Sharer) -> float:
        """Virtual tokens that the request's key was served; the least comes first."""
        return 0.0 if request.account is None else request.account.served

    def _of(self, level: int) -> list[Account]:
        return [account for (at, _), account in self._accounts.items() if at == level]

    def _floor(self, level: int) -> float:
        """The least that a key has which wants something."""
        active = [account.served for account in self._of(level) if account.n_active]
        return min(active) if active else self._floors.get(level, 0.0)

    def _look(self) -> None:
        """Forget those that would start anew anyway, and see whether keys compete."""
        floors = {level: self._floor(level) for level in {level for level, _ in self._accounts}}
        self._accounts = {
            (level, key): account
            for (level, key), account in self._accounts.items()
            if account.n_active or account.served > floors[level]
        }
        self.contended = len(self._accounts) > len({level for level, _ in self._accounts})
