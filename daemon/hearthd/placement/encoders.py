"""Encoders: where a model goes that does not generate: whole, on one device; pure."""

from __future__ import annotations

from hearthd.config.schema import ModelConfig
from hearthd.errors import InsufficientMemory
from hearthd.placement.candidates import ASSUMED_BYTES_PER_SECOND, ModelFacts, shape_of
from hearthd.placement.ledger import format_bytes
from hearthd.placement.placement import Pair, Place, Placement, Surroundings


def encoder_placed(
    config: ModelConfig,
    facts: ModelFacts,
    around: Surroundings,
    *,
    barred: frozenset[Pair] = frozenset(),
    taken: frozenset[str] = frozenset(),
) -> Placement:
    """On the fastest kind of device that runs it and has room for its weights; raises InsufficientMemory."""
    weights_bytes = shape_of(facts).weights_bytes
    words = (*config.require, *config.prefer)
    found: list[tuple[tuple[bool, bool, float], Place]] = []
    reasons = []
    for device in around.devices:
        meant = {device.name, device.kind, device.vendor}
        if device.state != "ready" or device.name in taken:
            continue
        if config.require and not meant & set(config.require):
            continue
        free = around.budgets.device_bytes.get(device.name)
        for backend, name in device.backends.items():
            verdict = facts.support.get(backend, {}).get(name)
            if verdict is None or (device.name, backend) in barred:
                continue
            if config.backend not in (None, backend):
                continue
            if verdict != "yes":
                reasons.append(f"{device.name} with {backend}: {verdict}")
            elif free is None or free < weights_bytes:
                room = "unknown memory" if free is None else f"{format_bytes(free)} free"
                reasons.append(f"{device.name} has {room}")
            else:
                worth = (
                    bool(meant & set(words)),
                    not meant & set(config.avoid),
                    ASSUMED_BYTES_PER_SECOND[device.kind],
                )
                place = Place(device.name, backend, name=name, budget_bytes=free)
                found.append((worth, place))
    if not found:
        raise InsufficientMemory(
            f"{facts.name} needs {format_bytes(weights_bytes)} for its weights; "
            f"{'; '.join(dict.fromkeys(reasons)) or 'there is no device that may be used'}"
        )
    best = max(found, key=lambda each: each[0])[1]  # of equals the first
    return Placement("planned", (best,), why="the fastest kind that has room for its weights")
