"""Faults: what goes wrong with a simulated stage, and when."""

from __future__ import annotations

import os
import signal
import threading

from hearth_backends.errors import CapacityError, StepError
from hearth_backends.sim.options import SimOptions


class Faults:
    """Counts steps and lets the configured ones fail."""

    def __init__(self, options: SimOptions) -> None:
        self._options = options
        self._n_steps = 0
        self._n_failed = 0

    def before(self) -> None:
        """Begin a step: raises CapacityError or StepError, kills the process, or never returns."""
        self._n_steps += 1
        options = self._options
        if options.die_after and self._n_steps > options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.hang_after and self._n_steps > options.hang_after:
            threading.Event().wait()
        if options.starve_every and self._n_steps % options.starve_every == 0:
            raise CapacityError(f"step {self._n_steps} finds no room, as it was told")
        if self._fails:
            self._n_failed += 1
            if self._n_failed % 2:
                raise StepError(f"step {self._n_steps} fails before it begins, as it was told")

    def after(self) -> None:
        """Everything has been computed: raises StepError in every second failure."""
        if self._fails:
            raise StepError(f"step {self._n_steps} fails at its end, as it was told")

    @property
    def _fails(self) -> bool:
        every = self._options.fail_every
        return bool(every) and self._n_steps % every == 0
