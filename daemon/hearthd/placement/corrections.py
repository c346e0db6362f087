"""Corrections: what loads were measured to take beside weights and key-value memory, for the next estimate of the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import msgspec

from hearthd.placement.need import Need

WORTH_TELLING = 0.01
"""Growth of a peak, as a part of it, below which nothing is kept anew."""


class Key(msgspec.Struct, frozen=True):
    """What was loaded, with what, where and how; loads with equal ones take the same."""

    model: str  # path
    backend: str
    device: str
    settings: str  # layers and room, in the engine's words


class Measured(msgspec.Struct, frozen=True):
    """A load's peak beside what was planned for it, in bytes."""

    planned_bytes: int
    peak_bytes: int
    workspace_bytes: int  # of the higher peak, what is neither weights nor key-value memory
    before_bytes: int = (
        0  # the peak of the load before: a first one may have more to do than others
    )


class Recorder(Protocol):
    """Who keeps what is measured."""

    def __call__(self, key: Key, measured: Measured) -> None: ...


class Corrections:
    """Remembers the latest two peaks of each key, of which the higher counts; weights and key-value memory are never made
    smaller than planned."""

    def __init__(self, known: Mapping[Key, Measured] | None = None) -> None:
        self._known: dict[Key, Measured] = dict(known or {})
        self.record: Callable[[Key, Measured], None] = lambda key, measured: None
        """Hears of each that has changed."""

    def take_in(self, known: Mapping[Key, Measured]) -> None:
        """What was measured before; what was measured since counts."""
        self._known = {**known, **self._known}

    def corrected(self, key: Key, need: Need) -> Need:
        """The need with the workspace that was measured for it, or else for the same pair in other settings."""
        known = self._known.get(key) or self._nearest(key)
        return need if known is None else replace(need, workspace_bytes=known.workspace_bytes)

    def workspaces(self, model: str) -> dict[tuple[str, str], int]:
        """By device and backend: the latest workspace that was measured of a model."""
        return {
            (key.device, key.backend): measured.workspace_bytes
            for key, measured in self._known.items()
            if key.model == model
        }

    def note(self, key: Key, planned: Need, peak_bytes: int, *, is_new: bool = True) -> None:
        """A load has held so much at most until now; `planned` is the estimate without corrections.

        `is_new`: nothing was noted of this load yet.
        """
        known, before_bytes = self._known.get(key), 0
        if known is not None and not is_new:
            if peak_bytes <= known.peak_bytes * (1 + WORTH_TELLING):
                return
            before_bytes = known.before_bytes
        elif known is not None:
            before_bytes = known.peak_bytes
        highest = max(peak_bytes, before_bytes)
        workspace = max(0, highest - planned.weights_bytes - planned.kv_bytes)
        measured = Measured(planned.total_bytes, peak_bytes, workspace, before_bytes)
        self._known.pop(key, None)  # the latest is the last
        self._known[key] = measured
        self.record(key, measured)

    def _nearest(self, key: Key) -> Measured | None:
        alike = [
            measured
            for other, measured in self._known.items()
            if (other.model, other.backend, other.device) == (key.model, key.backend, key.device)
        ]
        return alike[-1] if alike else None
