"""Policy: what the configuration says of the cache, of each model, and of each key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hearthd.cache.fingerprint import partition_of
from hearthd.config.schema import CacheConfig, KeyConfig, ModelCacheConfig, SemanticMode
from hearthd.serving.principal import Principal


@dataclass(frozen=True, slots=True)
class Policy:
    """Who shares answers with whom, and how long they are good for."""

    cache: CacheConfig
    models: Mapping[str, ModelCacheConfig]
    keys: Mapping[str, KeyConfig]

    def partition(self, principal: Principal) -> str:
        """Whose answers a principal gets."""
        key = self.keys.get(principal.name)
        group = "" if key is None else key.cache_group
        return partition_of(principal, group=group, shared=self.cache.shared)

    def model(self, name: str) -> ModelCacheConfig:
        """Of one model, by the name of its deployment."""
        return self.models.get(name, _DEFAULT)

    def semantic(self, model: str, principal: Principal) -> SemanticMode:
        """Whether answers to other words for the same are looked for; a key's own word counts first."""
        key = self.keys.get(principal.name)
        if not self.cache.embedder:
            return "off"
        return (key.semantic if key is not None else None) or self.model(model).semantic


_DEFAULT = ModelCacheConfig()
