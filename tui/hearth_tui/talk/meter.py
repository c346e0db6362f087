"""Meter: how fast an answer comes, while it does."""

from __future__ import annotations

import time

from hearth_tui import figures


class Meter:
    """Counts pieces, which are about as many as tokens."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._began = time.monotonic()
        self._first: float | None = None
        self._n_pieces = 0

    def add(self) -> None:
        """One more piece has come."""
        self._n_pieces += 1
        if self._first is None:
            self._first = time.monotonic()

    def line(self) -> str:
        """The status of now."""
        now = time.monotonic()
        if self._first is None:
            return f"{self._model} … {now - self._began:.0f} s"
        spent = now - self._first
        speed = f" · about {(self._n_pieces - 1) / spent:.0f} tokens/s" if spent > 0.5 else ""
        return f"first token {figures.duration(self._first - self._began)}{speed} · Esc stops"
