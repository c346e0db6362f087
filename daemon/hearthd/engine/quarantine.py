"""Quarantine: devices that were found to compute wrongly with a backend get nothing of that backend."""

from __future__ import annotations

from hearth_backends import registry
from hearth_backends.base import LoadedModel
from hearth_backends.errors import Unsupported
from hearthd import wire


def best_backend(load: wire.Load, model: LoadedModel) -> str:
    """The one that is asked for, or the best that reads the file and is not in quarantine; pure."""
    if load.backend is not None:
        return load.backend
    names = registry.candidates(model, load.device)
    devices = wire.device_names(load.device)
    sound = [n for n in names if not any(_key(n, device) in load.quarantined for device in devices)]
    return (sound or names)[0]


def check_quarantine(load: wire.Load, backend: str, device: str) -> None:
    """Raise Unsupported, with the reason and the remedy, for a pair in quarantine."""
    reason = load.quarantined.get(_key(backend, device))
    if reason is not None:
        raise Unsupported(f"backend {backend} on {device} is in quarantine: {reason}")


def _key(backend: str, device: str) -> str:
    return f"{backend} {device}"
