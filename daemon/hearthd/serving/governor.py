"""Governor: has models use fewer of their seats while the box is too hot, draws too much, or is to be quiet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from datetime import datetime

from hearthd import wire
from hearthd.config.schema import PowerConfig
from hearthd.hardware.device import Device
from hearthd.serving.service import Serving
from hearthd.serving.status import ModelStatus
from hearthd.serving.throttle import Strain, Throttle, is_quiet, next_throttle

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


class Governor:
    """Owns the throttle of each model; who runs already goes on, fewer come after."""

    def __init__(
        self,
        limits: PowerConfig,
        serving: Serving,
        devices: Callable[[], Iterable[Device]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`wall`: the clock that quiet hours go by."""
        self.limits = limits
        """From the next look on."""
        self._serving = serving
        self._devices = devices
        self._clock = clock
        self._wall = wall
        self._throttles: dict[str, Throttle] = {}
        self._reasons: dict[str, str] = {}

    @property
    def reasons(self) -> dict[str, str]:
        """Why a model does not use all of its seats now, by its name."""
        return dict(self._reasons)

    async def keep_going(self) -> None:
        """Look again and again."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Judge every model by what is known now."""
        if self.limits == PowerConfig() and not self._reasons:
            return
        here = self._wall()
        quiet = is_quiet(self.limits.quiet, here.hour * 60 + here.minute)
        devices = {device.name: device for device in self._devices()}
        models = self._serving.models()
        self._throttles = {
            model.name: next_throttle(
                self._throttles.get(model.name, Throttle()),
                strain_of(model, devices),
                self.limits,
                self._clock(),
            )
            for model in models
        }
        for model in models:
            throttle = self._throttles[model.name]
            share, reason = throttle.share, throttle.reason
            if quiet and self.limits.quiet_share < share:
                share, reason = self.limits.quiet_share, "quiet hours"
            self._hold(model.name, share, reason if share < 1.0 else "")

    def _hold(self, name: str, share: float, reason: str) -> None:
        text = f"{share:.0%} of its seats: {reason}" if reason else ""
        if text != self._reasons.get(name, ""):
            log.log(
                logging.WARNING if text else logging.INFO,
                "%s", text or "all of its seats again", extra={"model": name},
            )  # fmt: skip
        self._reasons.pop(name, None)
        if text:
            self._reasons[name] = text
        self._serving.hold(name, share)


def strain_of(model: ModelStatus, devices: dict[str, Device]) -> Strain:
    """What is measured of the devices a model is on, and of the whole box; pure."""
    stages = [] if model.info is None else model.info.stages
    names = {name for stage in stages for name in wire.device_names(stage.device)}
    heats = [devices[name].reading.temperature_celsius for name in names if name in devices]
    watts = [device.reading.power_watts for device in devices.values()]
    return Strain(
        hottest_celsius=max((heat for heat in heats if heat is not None), default=None),
        box_watts=sum(known) if (known := [w for w in watts if w is not None]) else None,
    )
