"""Preparation: submits that may take long to prepare, beside those that do not.

A grammar may compile for seconds; meanwhile other requests are taken in and steps go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from hearthd import wire
from hearthd.engine.intake import Arrival
from hearthd.engine.refused import Refused

log = logging.getLogger(__name__)

N_THREADS = 2


class Preparation:
    """Prepares submits in threads of its own; one that is cancelled meanwhile never arrives."""

    def __init__(
        self,
        prepare: Callable[[wire.Submit], Arrival],
        deliver: Callable[[Arrival], None],
        refuse: Callable[[wire.Reject], None],
    ) -> None:
        """`prepare` raises Refused; `deliver` and `refuse` are called from any of the threads."""
        self._prepare = prepare
        self._deliver = deliver
        self._refuse = refuse
        self._lock = threading.Lock()
        self._pending: set[int] = set()
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="preparation")

    @property
    def n_pending(self) -> int:
        """Submits that have neither arrived nor been refused."""
        return len(self._pending)

    def take(self, frame: wire.Submit) -> None:
        """Begin with a submit."""
        with self._lock:
            self._pending.add(frame.rid)
        self._pool.submit(self._run, frame)

    def cancel(self, rid: int) -> bool:
        """Forget a submit; False where it is not among the pending ones."""
        with self._lock:
            if rid not in self._pending:
                return False
            self._pending.remove(rid)
            return True

    def give_up_all(self) -> list[int]:
        """Forget all that are pending; returns their numbers."""
        with self._lock:
            rids = sorted(self._pending)
            self._pending.clear()
            return rids

    def close(self) -> None:
        """Begin with nothing new; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, frame: wire.Submit) -> None:
        if frame.rid not in self._pending:
            return
        outcome = self._outcome(frame)
        with self._lock:  # a cancel that comes now comes after the arrival
            if frame.rid not in self._pending:
                return
            self._pending.remove(frame.rid)
            if isinstance(outcome, Arrival):
                self._deliver(outcome)
            else:
                self._refuse(outcome)

    def _outcome(self, frame: wire.Submit) -> Arrival | wire.Reject:
        try:
            return self._prepare(frame)
        except Refused as refused:
            return refused.frame
        except Exception:  # nobody waits for this thread: the request must not hang
            log.exception("request %d could not be prepared", frame.rid)
            message = "something failed inside the engine while the request was prepared"
            return wire.Reject(frame.rid, 500, "internal_error", message)
