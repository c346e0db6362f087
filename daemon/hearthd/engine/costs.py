"""Costs: seconds of steps as measured, and what that allows the next one to hold."""

from __future__ import annotations

from itertools import pairwise

STALE_AFTER = 2000
"""Steps after which a cost that was not measured again is no longer believed, however often it was before."""
_BELIEVED = 32
"""Steps for which a single measurement is believed; each further one doubles them.

A step of a new width is dear the first time (buffers, pages), and a machine has hiccups: taken for the
width's cost, such a step would keep all others away.
"""
_MOST_DOUBLINGS = 6
LEAST_PROMPT_ROWS = 16
"""Of a step, however slow: prompts get on."""
FIRST_PROMPT_ROWS = 64
"""Beside decoding requests, before anything was measured."""
PLAIN_STEPS = 8.0
"""Where plain steps already take more than half of the target, a step with prompts may take so many of them.

Rows are dear in small chunks: cut to one plain step's time, prompts would take half as much time again.
"""
_EWMA = 0.15
_ROW_EWMA = 0.3
_LEAST_SHARE = 0.05  # of a step's mean seconds for each row: what a row is taken to cost at least


class StepCosts:
    """Seconds of a decoding step by its number of rows, as measured; what was not measured is interpolated."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._sorted: list[int] = []
        self._seen_at: dict[int, int] = {}
        self._n_measured: dict[int, int] = {}  # of each width, also of those that are forgotten
        self._n_seen = 0

    def observe(self, n_rows: int, seconds: float) -> None:
        """Take one measurement; a width that was not seen for long is forgotten, and tried anew."""
        self._n_seen += 1
        self._seen_at[n_rows] = self._n_seen
        n_before = self._n_measured.get(n_rows, 0)
        self._n_measured[n_rows] = n_before + 1
        if self._n_seen % _BELIEVED == 0:
            self._forget_stale()
        known = self._seconds.get(n_rows)
        if known is None:
            self._seconds[n_rows] = seconds
            self._sorted = sorted(self._seconds)
            return
        bounded = min(seconds, 4 * known)  # one hiccup of the machine is not the cost of a step
        weight = max(_EWMA, 1 / (n_before + 1))  # the mean of the first few
        self._seconds[n_rows] = known + weight * (bounded - known)

    def _forget_stale(self) -> None:
        for n_rows, at in list(self._seen_at.items()):
            believed = _BELIEVED << min(self._n_measured[n_rows] - 1, _MOST_DOUBLINGS)
            if self._n_seen - at > min(STALE_AFTER, believed):
                del self._seen_at[n_rows], self._seconds[n_rows]
        self._sorted = sorted(self._seconds)

    @property
    def widest(self) -> int:
        """The most rows of a step that was measured; 0 before any was."""
        return self._sorted[-1] if self._sorted else 0

    def known(self, n_rows: int) -> bool:
        """Whether a step of that many rows was measured."""
        return n_rows in self._seconds

    def of(self, n_rows: int) -> float | None:
        """Seconds of a step; None before anything was measured.

        Beyond the largest known width the cost is taken as flat: widening by a row at a time is how
        the true cost is found out.
        """
        exact = self._seconds.get(n_rows)
        if exact is not None:
            return exact
        for low, high in pairwise(self._sorted):
            if low < n_rows < high:
                share = (n_rows - low) / (high - low)
                return self._seconds[low] + share * (self._seconds[high] - self._seconds[low])
        if not self._sorted:
            return None
        nearest = self._sorted[0] if n_rows < self._sorted[0] else self._sorted[-1]
        return self._seconds[nearest]


class PromptCosts:
    """Seconds of a prompt's row, beside decoding requests and alone."""

    def __init__(self) -> None:
        self.decoding = StepCosts()
        self._beside: float | None = None  # of a row in a step with decoding requests
        self._share: float | None = None  # the same, with what the step would have taken anyway
        self._alone: float | None = None  # of a row in a step without

    def observe(self, n_decoding: int, n_prompt: int, seconds: float) -> None:
        """Take the measurement of a step with so many rows of each kind."""
        if not n_prompt:
            self.decoding.observe(n_decoding, seconds)
        elif n_decoding:
            plain = self.decoding.of(n_decoding) or 0.0
            each = max((seconds - plain) / n_prompt, _LEAST_SHARE * seconds / n_prompt)
            self._beside = _blend(self._beside, each)
            self._share = _blend(self._share, seconds / n_prompt)
        elif n_prompt >= LEAST_PROMPT_ROWS:
            self._alone = _blend(self._alone, seconds / n_prompt)

    @property
    def row_seconds(self) -> float | None:
        """Of a row of a prompt that has the stages for itself; None before one was measured."""
        return self._alone

    def prompt_rows(self, n_decoding: int, n_prompts: int, target_seconds: float) -> int:
        """Rows of prompts that a step may hold beside decoding requests, to take no longer than the target.

        Where plain steps take longer than half of that, PLAIN_STEPS of them are the target, and more
        where prompts are many: those who wait have no token at all, and few streams use a step badly.
        """
        plain = self._plain_seconds(n_decoding)
        if plain is None:  # no step was without prompts: the more rows, the less each has to bear
            each, left = self._share, target_seconds
        else:
            each = self._beside or self._alone
            most = target_seconds
            if 2 * plain > target_seconds:
                most = PLAIN_STEPS * plain * (1 + n_prompts / n_decoding)
            left = most - plain
        if not each:  # nothing was measured, or too fast for the clock
            return FIRST_PROMPT_ROWS
        return max(LEAST_PROMPT_ROWS, int(left / each))

    def rows_alone(self, target_seconds: float) -> int:
        """Rows of prompts that a step without decoding requests may hold, to take no longer than the target."""
        each = self._alone or self._share
        return max(LEAST_PROMPT_ROWS, int(target_seconds / each)) if each else FIRST_PROMPT_ROWS

    def _plain_seconds(self, n_decoding: int) -> float | None:
        """Of a step without prompts; in proportion to the widest where that was narrower."""
        seconds, widest = self.decoding.of(n_decoding), self.decoding.widest
        return seconds if seconds is None else seconds * max(1.0, n_decoding / max(1, widest))


def _blend(known: float | None, seconds: float) -> float:
    if known is None:
        return seconds
    return known + _ROW_EWMA * (min(seconds, 4 * known) - known)
