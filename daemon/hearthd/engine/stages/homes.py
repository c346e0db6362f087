"""Homes: which stages have a process of their own; pure."""

from __future__ import annotations

from hearthd import wire


def has_own_process(config: wire.StageConfig) -> bool:
    """As the configuration says; unasked, a stage that keeps to processors of its own.

    Threads that a library starts keep to what their process keeps to, so two stages in one process
    cannot be kept apart.
    """
    if config.own_process is not None:
        return config.own_process
    return bool(config.cpus)
