"""Places: the devices of a backend that a stage is put on, one or a group of equal ones; nothing is allocated."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_backends import registry
from hearth_backends.base import Backend, DeviceInfo
from hearth_backends.errors import Unsupported
from hearth_backends.weights.spec import ModelSpec
from hearthd import wire


def place_of(config: wire.StageConfig, model: ModelSpec) -> tuple[Backend, tuple[DeviceInfo, ...]]:
    """The backend of a stage and its devices; raises Unsupported where they cannot have it, in words."""
    backend = registry.backend(config.backend)
    known = {device.name: device for device in backend.devices()}
    names = wire.device_names(config.device)
    for name in names:
        if name not in known:
            raise Unsupported(
                f"backend {config.backend} has no device {name!r}; it has {', '.join(known)}"
            )
    devices = tuple(known[name] for name in names)
    for device in devices:
        support = backend.supports(model, device)
        if not support.ok:
            raise Unsupported(f"backend {config.backend} on {device.name}: {support.reason}")
    if len(devices) > 1:
        support = backend.group_support(model, devices)
        if not support.ok:
            raise Unsupported(f"backend {config.backend} on {config.device}: {support.reason}")
    return backend, devices


def check_one_group(stages: Sequence[wire.StageConfig]) -> None:
    """Raise Unsupported where an engine would have two groups: its process can be in one only."""
    groups = [stage.device for stage in stages if len(wire.device_names(stage.device)) > 1]
    if len(groups) > 1:
        raise Unsupported(
            f"an engine can have one group of devices, not {len(groups)} ({', '.join(groups)})"
        )
