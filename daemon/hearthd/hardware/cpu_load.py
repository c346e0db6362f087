"""CpuLoad: how busy the processors of the machine were since they were last looked at."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


class CpuLoad:
    """Looks when it is asked; its methods may read a file of the kernel."""

    def __init__(self) -> None:
        self._last: list[tuple[float, float]] = []  # busy and all seconds of each processor

    def read(self) -> dict[int, float]:
        """The busy part (0 to 1) of each logical processor's time; empty at the first look."""
        now = [_times(times) for times in psutil.cpu_times(percpu=True)]
        last, self._last = self._last, now
        if len(last) != len(now):
            return {}
        return {
            number: (busy - busy_before) / (spent - spent_before)
            for number, ((busy, spent), (busy_before, spent_before)) in enumerate(
                zip(now, last, strict=True)
            )
            if spent > spent_before
        }


def mean_load(loads: dict[int, float], cpus: Iterable[int]) -> float | None:
    """Of some processors together; None where nothing is known of them. Pure."""
    known = [loads[cpu] for cpu in cpus if cpu in loads]
    return sum(known) / len(known) if known else None


def _times(times: object) -> tuple[float, float]:
    values = times._asdict()  # type: ignore[attr-defined]
    # The kernel counts guests' time twice: within user and nice, and on its own.
    counted = {name: spent for name, spent in values.items() if not name.startswith("guest")}
    spent = sum(counted.values())
    return spent - counted.get("idle", 0.0) - counted.get("iowait", 0.0), spent
