"""The configuration: what it may say, where it comes from, and where each value came from."""

from hearthd.config.load import Flags, Loaded, Row, explain, load
from hearthd.config.parse import check_openness, split_address
from hearthd.config.schema import (
    BUILTIN_MODEL,
    CacheConfig,
    Config,
    EngineConfig,
    KeyConfig,
    KeyLimitsConfig,
    LimitsConfig,
    LogConfig,
    MemoryConfig,
    ModelCacheConfig,
    ModelConfig,
    StopConfig,
    TlsConfig,
)

__all__ = [
    "BUILTIN_MODEL",
    "CacheConfig",
    "Config",
    "EngineConfig",
    "Flags",
    "KeyConfig",
    "KeyLimitsConfig",
    "LimitsConfig",
    "Loaded",
    "LogConfig",
    "MemoryConfig",
    "ModelCacheConfig",
    "ModelConfig",
    "Row",
    "StopConfig",
    "TlsConfig",
    "check_openness",
    "explain",
    "load",
    "split_address",
]
