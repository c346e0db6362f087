"""Changes: what differs between two configurations, and what of that counts without a restart. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hearthd.config.parse import dotted
from hearthd.config.schema import Config, ModelCacheConfig, ModelConfig
from hearthd.config.sources import Key

LIVE: tuple[Key, ...] = (
    ("models",),
    ("keys",),
    ("engine",),
    ("power",),
    ("log",),
    ("stop",),
    ("limits", "queue_requests"),
    ("limits", "call_seconds"),
    ("batch",),
)
"""What counts at once; everything else stands until the next start, also what is added to the schema later."""


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """Names of models, in the order of the new configuration."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()  # they need another engine
    adjusted: tuple[str, ...] = ()  # only what hearthd itself goes by


@dataclass(frozen=True, slots=True)
class Changes:
    """From one configuration to another."""

    models: ModelChanges
    live: tuple[str, ...]  # other keys that count at once, dotted
    restart: tuple[str, ...]  # keys that count from the next start on, dotted

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return self != Changes(ModelChanges(), (), ())


def compare(old: Config, new: Config) -> Changes:
    """What has changed; a table that came or went is told by its own name."""
    keys = _differing(msgspec.to_builtins(old), msgspec.to_builtins(new), ())
    live = [key for key in keys if any(key[: len(prefix)] == prefix for prefix in LIVE)]
    return Changes(
        models=compare_models(old.models, new.models),
        live=tuple(dotted(key) for key in live if key[0] != "models"),
        restart=tuple(dotted(key) for key in keys if key not in live),
    )


def compare_models(old: Mapping[str, ModelConfig], new: Mapping[str, ModelConfig]) -> ModelChanges:
    """Which models come, go, or are to be served in another way."""
    common = [name for name in new if name in old]
    replaced = [name for name in common if _engine_of(name, old) != _engine_of(name, new)]
    return ModelChanges(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        replaced=tuple(replaced),
        adjusted=tuple(name for name in common if name not in replaced and old[name] != new[name]),
    )


def _engine_of(
    name: str, models: Mapping[str, ModelConfig]
) -> tuple[ModelConfig, ModelConfig | None]:
    """All that an engine goes by: of the model, and of the one that guesses for it."""
    model = models[name]
    draft = None if model.draft is None else models.get(model.draft)
    return _as_loaded(model), None if draft is None else _as_loaded(draft)


def _as_loaded(model: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(model, aliases=(), cache=ModelCacheConfig())


def _differing(old: Any, new: Any, prefix: Key) -> list[Key]:
    """Keys with other values, as far down as both sides have a table."""
    if old == new:
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [prefix]
    names = dict.fromkeys([*old, *new])
    return [
        key for name in names for key in _differing(old.get(name), new.get(name), (*prefix, name))
    ]
