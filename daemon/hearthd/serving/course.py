"""Course: where a copy of a model was tried, and where it goes next when a load fails; it belongs to one keeper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from hearthd.errors import HearthError
from hearthd.placement.placement import Pair, Placement
from hearthd.serving.deployments import Revision
from hearthd.serving.placer import Granted, Placer
from hearthd.serving.replica import Replica
from hearthd.serving.restart import EngineEnd

EVERYWHERE: Final = frozenset({"model_file_error"})
"""What is wrong with the model is so on every device."""


@dataclass(slots=True)
class Course:
    """Each pair of device and backend gets one failed load; then the next best plan is without it."""

    barred: frozenset[Pair] = frozenset()
    setbacks: list[str] = field(default_factory=list)
    _first: EngineEnd | None = None

    async def place(self, placer: Placer, replica: Replica, revision: Revision) -> Granted:
        """The best there is now without what has failed; raises what `Placer.place` raises, with what came before."""
        try:
            granted = await placer.place(replica, revision, self.barred)
        except HearthError as error:
            if self._first is None:
                raise
            raise HearthError(
                f"{self._first.message}; nowhere else: {error.message}", code=self._first.code
            ) from error
        placer.take(replica, granted.placement)
        return granted

    def goes_elsewhere(self, placement: Placement, end: EngineEnd) -> bool:
        """Whether a load that has failed is to be tried in the next best place, which is remembered."""
        suspects = suspects_of(placement, end)
        if not suspects:
            return False
        self._first = self._first or end
        self.barred |= suspects
        where = ", ".join(sorted(f"{device} with {backend}" for device, backend in suspects))
        self.setbacks = [*self.setbacks, f"not loaded on {where}: {end.message}"]
        return True


def suspects_of(placement: Placement, end: EngineEnd) -> frozenset[Pair]:
    """What a failed load is laid to: the device it was busy with, or the only one; nothing where somebody chose them. Pure."""
    if placement.origin != "planned" or end.served_seconds is not None or end.code in EVERYWHERE:
        return frozenset()
    if end.is_displaced:
        return frozenset()
    places = [p for p in placement.places if p.backend is not None]
    named = [p for p in places if end.device in (p.name, p.device)]
    if not named and len(places) > 1:
        return frozenset()
    return frozenset((p.device, p.backend or "") for p in named or places)
